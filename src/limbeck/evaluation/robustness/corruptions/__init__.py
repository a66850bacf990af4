"""The common corruptions: noise, blur, weather and processing, in five severities each."""

from limbeck.evaluation.robustness.corruptions.corrupt import CORRUPTIONS, DEVIATIONS, SEVERITIES, corrupt, corrupted

__all__ = ["CORRUPTIONS", "DEVIATIONS", "SEVERITIES", "corrupt", "corrupted"]
