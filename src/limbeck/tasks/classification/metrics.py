"""The metrics of a classifier: accuracy, macro F1, likelihood and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

import torch
from torch import Tensor

from limbeck.core.metric_spec import MetricSpec
from limbeck.evaluation.class_metrics import ECE, MACRO_F1, NLL, classification_metrics

ACCURACY: Final = MetricSpec(name="accuracy", label="Top-1 accuracy", phrase="accuracy")
METRICS: Final = (
    ACCURACY,
    MetricSpec(name="top5_accuracy", label="Top-5 accuracy", phrase="top-5 accuracy"),
    MACRO_F1,
    NLL,
    ECE,
)


@final
class ClassificationMetrics:
    """:func:`limbeck.evaluation.classification_metrics` over batches.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        self._classes, self._logits, self._targets = classes, list[Tensor](), list[Tensor]()

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add ``logits`` ``[batch, classes]`` and class indices ``[batch]``; −100 is no label."""
        self._logits.append(logits.detach().float().cpu())
        self._targets.append(target.detach().cpu().long())

    def compute(self) -> Mapping[str, Any]:
        """The metrics; ``per_class`` is the accuracy of each class, ``class_num_samples`` its number of samples."""
        names = [str(index) for index in range(self._classes)]
        values = classification_metrics(torch.cat(self._logits), torch.cat(self._targets), class_names=names)
        by_class = values.pop("per_class")
        return {
            **values,
            "per_class": [entry["accuracy"] for entry in by_class],
            "class_num_samples": [entry["num_samples"] for entry in by_class],
        }
