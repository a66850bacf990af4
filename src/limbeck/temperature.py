"""Temperatures that are more than a number, under the name users write: ``from limbeck import temperature``."""

from limbeck.losses.temperature import (
    CLASSIFICATION,
    DETECTION,
    Constant,
    Dynamic,
    Learned,
    LogitStandardization,
    LossAdaptive,
    PerSample,
    Range,
    ScaledLogits,
    Scheduled,
    Temperature,
    adapt_temperature,
    apply_temperature,
    dynamic_temperatures,
    per_sample_temperature,
    standardize_logits,
    temperature_warning,
)

__all__ = [
    "CLASSIFICATION", "DETECTION", "Dynamic", "Constant", "Learned", "LossAdaptive", "PerSample", "Range", "Scheduled",
    "LogitStandardization", "Temperature", "ScaledLogits", "adapt_temperature", "temperature_warning", "dynamic_temperatures", "per_sample_temperature", "standardize_logits",
    "apply_temperature",
]  # fmt: skip
