"""Temperatures that are more than a number: policies that any term on responses takes as its ``tau``.

A term calls :func:`tempered` with its loss; a policy gives the logits and the temperature at which that loss is taken.
So a policy knows no term, and a term no policy. Those that keep state are ``nn.Module``s: the objective registers them
with the parts that terms learn, so they reach the optimizer, the device and the checkpoint.
"""

from limbeck.core.temperature_range import (
    CLASSIFICATION,
    DEFAULT_TEMPERATURE,
    DETECTION,
    Range,
    temperature_range,
    temperature_warning,
)
from limbeck.losses.temperature.constant import Constant, Scheduled
from limbeck.losses.temperature.dynamic import Dynamic, dynamic_temperatures
from limbeck.losses.temperature.learned_temperature import Learned
from limbeck.losses.temperature.logit_standardization import LogitStandardization, standardize_logits
from limbeck.losses.temperature.loss_adaptive import LossAdaptive, adapt_temperature
from limbeck.losses.temperature.per_sample import PerSample, per_sample_temperature
from limbeck.losses.temperature.policy import (
    ScaledLogits,
    Temperature,
    TemperatureRecord,
    apply_temperature,
    record_temperatures,
)

__all__ = [
    "CLASSIFICATION", "DETECTION", "DEFAULT_TEMPERATURE", "Dynamic", "Constant", "TemperatureRecord", "Learned", "LossAdaptive", "PerSample",
    "Range", "Scheduled", "LogitStandardization", "Temperature", "ScaledLogits", "adapt_temperature", "temperature_warning", "dynamic_temperatures", "record_temperatures",
    "per_sample_temperature", "temperature_range", "standardize_logits", "apply_temperature",
]  # fmt: skip
