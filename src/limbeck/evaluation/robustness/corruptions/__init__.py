"""The common corruptions: noise, blur, weather and processing, in five severities each."""

from limbeck.evaluation.robustness.corruptions.corrupt import (
    CORRUPTION_NOTE,
    CORRUPTIONS,
    SEVERITIES,
    corrupt,
    corruption_accuracy,
)

__all__ = ["CORRUPTIONS", "CORRUPTION_NOTE", "SEVERITIES", "corrupt", "corruption_accuracy"]
