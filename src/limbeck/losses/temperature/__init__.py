"""Temperatures that are more than a number: policies that any term on responses takes as its ``tau``.

A term calls :func:`tempered` with its loss; a policy gives the logits and the temperature at which that loss is taken.
So a policy knows no term, and a term no policy. Those that keep state are ``nn.Module``s: the objective registers them
with the parts that terms learn, so they reach the optimizer, the device and the checkpoint.
"""

from limbeck.core.temperature_range import CLASSIFICATION, DETECTION, USUAL, Range, doubt, span
from limbeck.losses.temperature.constant import Fixed, Scheduled
from limbeck.losses.temperature.dynamic import Dynamic, dynamic
from limbeck.losses.temperature.learned_temperature import Learned
from limbeck.losses.temperature.logit_standardization import Standardised, standardised
from limbeck.losses.temperature.loss_adaptive import LossAdaptive, adapted
from limbeck.losses.temperature.per_sample import PerSample, per_sample
from limbeck.losses.temperature.policy import Heard, Temperature, Tempered, listening, tempered

__all__ = [
    "CLASSIFICATION", "DETECTION", "USUAL", "Dynamic", "Fixed", "Heard", "Learned", "LossAdaptive", "PerSample",
    "Range", "Scheduled", "Standardised", "Temperature", "Tempered", "adapted", "doubt", "dynamic", "listening",
    "per_sample", "span", "standardised", "tempered",
]  # fmt: skip
