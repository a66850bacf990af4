"""Temperatures that are more than a number, under the name users write: ``from limbeck import temperature``."""

from limbeck.losses.temperature import (
    CLASSIFICATION,
    DETECTION,
    Dynamic,
    Fixed,
    Learned,
    LossAdaptive,
    PerSample,
    Range,
    Scheduled,
    Standardised,
    Temperature,
    Tempered,
    adapted,
    doubt,
    dynamic,
    per_sample,
    standardised,
    tempered,
)

__all__ = [
    "CLASSIFICATION", "DETECTION", "Dynamic", "Fixed", "Learned", "LossAdaptive", "PerSample", "Range", "Scheduled",
    "Standardised", "Temperature", "Tempered", "adapted", "doubt", "dynamic", "per_sample", "standardised",
    "tempered",
]  # fmt: skip
