"""Checks of the temperatures of an objective, and the modules that learn in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck.core.protocols import Loss, loss_attribute
from limbeck.core.temperature_range import Range, temperature_range, temperature_warning
from limbeck.losses.temperature import LogitStandardization

__all__ = ["temperature_warnings", "trainable_modules"]


def trainable_modules(loss: Loss) -> list[nn.Module]:
    """The loss and its temperature, those that are an ``nn.Module``; the first holds the others.

    >>> from limbeck.losses.temperature import LossAdaptive
    >>> from limbeck.losses import KDLoss
    >>> trainable_modules(KDLoss()), trainable_modules(KDLoss(temperature=LossAdaptive()))
    ([], [LossAdaptive(start=4.0, low=3.0, high=6.0, rate=0.01, margin=0.02)])
    """
    return [module for module in (loss, getattr(loss, "temperature", None)) if isinstance(module, nn.Module)]


def temperature_warnings(losses: Mapping[str, Loss], task: object) -> list[str]:
    """One sentence for each temperature outside the usual range of ``task``; none where the task declares no range.

    A task declares it as ``temperatures``, a :class:`~limbeck.core.temperature_range.Range`. A default
    (``temperature=None``) is not checked, nor the base of standardized logits, which have another scale.

    >>> import limbeck
    >>> from limbeck.losses import KDLoss
    >>> temperature_warnings({"kd": KDLoss(temperature=20.0)}, limbeck.tasks.Classification(classes=10))
    ['the temperature of kd is 20, and Classification is used to 3 to 6: keep it only if you mean it']
    """
    expected = getattr(task, "temperatures", None)
    if not isinstance(expected, Range):
        return []
    messages = []
    for name, loss in losses.items():
        temperature: Any = getattr(loss, "temperature", None)
        if (
            temperature is None
            or not loss_attribute(loss, "uses_temperature")
            or isinstance(temperature, LogitStandardization)
        ):
            continue
        low, high = temperature_range(temperature)
        messages.append(temperature_warning(low, high, expected=expected, loss_name=name, task=type(task).__name__))
    return [message for message in messages if message is not None]
