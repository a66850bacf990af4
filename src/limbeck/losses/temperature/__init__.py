"""Temperature policies: any response loss takes one as its ``temperature``.

A loss calls :func:`apply_temperature` with its function; the policy returns logits and a temperature. Policies with
state are ``nn.Module``s, which the objective registers with the parameters of the losses.
"""

from limbeck.core.loss_context import DEFAULT_TEMPERATURE
from limbeck.losses.temperature.constant import Constant, Scheduled
from limbeck.losses.temperature.dynamic import Dynamic, dynamic_temperatures
from limbeck.losses.temperature.learned_temperature import Learned
from limbeck.losses.temperature.logit_standardization import LogitStandardization, standardize_logits
from limbeck.losses.temperature.loss_adaptive import LossAdaptive, adapt_temperature
from limbeck.losses.temperature.per_sample import PerSample, per_sample_temperature
from limbeck.losses.temperature.policy import ScaledLogits, Temperature, TemperatureRecord, apply_temperature
from limbeck.losses.temperature.temperature_range import (
    CLASSIFICATION,
    DETECTION,
    Range,
    temperature_range,
    temperature_warning,
    temperature_warnings,
)

__all__ = [
    "CLASSIFICATION",
    "DEFAULT_TEMPERATURE",
    "DETECTION",
    "Constant",
    "Dynamic",
    "Learned",
    "LogitStandardization",
    "LossAdaptive",
    "PerSample",
    "Range",
    "ScaledLogits",
    "Scheduled",
    "Temperature",
    "TemperatureRecord",
    "adapt_temperature",
    "apply_temperature",
    "dynamic_temperatures",
    "per_sample_temperature",
    "standardize_logits",
    "temperature_range",
    "temperature_warning",
    "temperature_warnings",
]
