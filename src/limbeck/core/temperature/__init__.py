"""Temperatures that are more than a number: policies that any term on responses takes as its ``tau``.

A term calls :func:`tempered` with its loss; a policy gives the logits and the temperature at which that loss is taken.
So a policy knows no term, and a term no policy. Those that keep state are ``nn.Module``s: the objective registers them
with the parts that terms learn, so they reach the optimizer, the device and the checkpoint.
"""

from limbeck.core.ranges import CLASSIFICATION, DETECTION, USUAL, Range, doubt, span
from limbeck.core.temperature.dynamic import Dynamic, dynamic
from limbeck.core.temperature.learned import Learned
from limbeck.core.temperature.loss_adaptive import LossAdaptive, adapted
from limbeck.core.temperature.per_sample import PerSample, per_sample
from limbeck.core.temperature.plain import Fixed, Scheduled
from limbeck.core.temperature.policy import Heard, Temperature, Tempered, listening, tempered
from limbeck.core.temperature.standardised import Standardised, standardised

__all__ = [
    "CLASSIFICATION", "DETECTION", "USUAL", "Dynamic", "Fixed", "Heard", "Learned", "LossAdaptive", "PerSample",
    "Range", "Scheduled", "Standardised", "Temperature", "Tempered", "adapted", "doubt", "dynamic", "listening",
    "per_sample", "span", "standardised", "tempered",
]  # fmt: skip
