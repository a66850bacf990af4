"""Temperatures that are more than a number: policies that any term on responses takes as its ``temperature``.

A term calls :func:`apply_temperature` with its loss; a policy gives the logits and the temperature at which that loss
is taken. So a policy knows no term, and a term no policy. Those that keep state are ``nn.Module``s: the objective
registers them with the parts that terms learn, so they reach the optimizer, the device and the checkpoint.
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
    apply_temperature,
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
    "adapt_temperature",
    "apply_temperature",
    "dynamic_temperatures",
    "per_sample_temperature",
    "standardize_logits",
    "temperature_range",
    "temperature_warning",
]  # fmt: skip
