"""The 15 common corruptions in 5 severities."""

from limbeck.evaluation.robustness.corruptions.corrupt import (
    CORRUPTION_NOTE,
    CORRUPTIONS,
    SEVERITIES,
    corrupt,
    corruption_accuracy,
)

__all__ = ["CORRUPTIONS", "CORRUPTION_NOTE", "SEVERITIES", "corrupt", "corruption_accuracy"]
