"""What each metric of a classification record means: its label, its unit, and which direction is better."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

__all__ = ["METRIC_INFO", "PRIMARY_METRIC"]

METRIC_INFO: Final = MappingProxyType[str, dict[str, Any]](
    {
        "accuracy": {"label": "Top-1 accuracy", "unit": "%", "higher_is_better": True},
        "top5_accuracy": {"label": "Top-5 accuracy", "unit": "%", "higher_is_better": True},
        "macro_f1": {"label": "Macro F1", "unit": "%", "higher_is_better": True},
        "nll": {"label": "NLL", "unit": "nats", "higher_is_better": False},
        "ece": {"label": "Calibration error, ECE", "unit": "", "higher_is_better": False},
    }
)
"""``metric_info`` of a record. Metrics with the unit ``%`` are fractions and are shown as per cent."""
PRIMARY_METRIC: Final = "accuracy"
"""The metric by which models are compared."""
