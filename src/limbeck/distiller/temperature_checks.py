"""The temperatures of an objective's terms: which there are, which move, and which a task is not used to."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import Tensor, nn

from limbeck.core.progress import Progress
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule, resolve
from limbeck.losses.temperature import LogitStandardization, Range, Temperature, temperature_range, temperature_warning

__all__ = ["LossTemperatures", "temperature_warnings", "trainable_modules"]


def trainable_modules(loss: Loss) -> list[nn.Module]:
    """What of a term learns or keeps state: the term itself, and its temperature; the first holds the others.

    >>> from limbeck.losses.temperature import LossAdaptive
    >>> from limbeck.losses import KDLoss
    >>> trainable_modules(KDLoss()), trainable_modules(KDLoss(temperature=LossAdaptive()))
    ([], [LossAdaptive(start=4.0, low=3.0, high=6.0, rate=0.01, margin=0.02)])
    """
    return [module for module in (loss, getattr(loss, "temperature", None)) if isinstance(module, nn.Module)]


def temperature_warnings(losses: Mapping[str, Loss], task: object) -> list[str]:
    """A sentence for each term whose temperature the task is not used to; none where the task does not say.

    A task says by an attribute ``temperatures``, a :class:`~limbeck.losses.temperature.Range`. The default of a
    method is no cause for doubt, and neither is the base of standardised logits, which have another scale.

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
        parameter = _temperature_parameter(loss)
        if (
            parameter is None
            or isinstance(temperature, LogitStandardization)
            or parameter.default is temperature
            or parameter.default == temperature
        ):
            continue
        low, high = temperature_range(temperature)
        messages.append(temperature_warning(low, high, expected=expected, loss_name=name, task=type(task).__name__))
    return [message for message in messages if message is not None]


@final
class LossTemperatures:
    """What is known of the temperatures of ``losses`` before and while they are computed.

    Attributes:
        policies: the names of the terms that have a policy, which is heard at every step.
    """

    def __init__(self, losses: Mapping[str, Loss]) -> None:
        settings: dict[str, Any] = {name: getattr(loss, "temperature", None) for name, loss in losses.items()}
        self.policies = frozenset(name for name, temperature in settings.items() if _is_policy(temperature))
        fixed = {
            name: settings[name]
            for name, loss in losses.items()
            if name not in self.policies and _temperature_parameter(loss)
        }
        self._constant: dict[str, Sequence[float | Tensor]] = {
            name: (float(temperature),) for name, temperature in fixed.items() if not callable(temperature)
        }
        self._scheduled: dict[str, Schedule] = {
            name: temperature for name, temperature in fixed.items() if callable(temperature)
        }

    def resolve(self, progress: Progress) -> Mapping[str, Sequence[float | Tensor]]:
        """The temperatures of the terms without a policy, by name; costs nothing where none moves."""
        if not self._scheduled:
            return self._constant
        return self._constant | {
            name: (resolve(temperature, progress),) for name, temperature in self._scheduled.items()
        }


def _temperature_parameter(loss: Loss) -> inspect.Parameter | None:
    """The parameter ``temperature`` of a term on responses: of one whose ``temperature`` may be a policy.

    A temperature of another kind (of a contrast between samples, of places in a map) goes by the same letter, and what
    a task is used to says nothing of it; such a term takes no policy.
    """
    try:
        parameter = inspect.signature(type(loss)).parameters.get("temperature")
    except (TypeError, ValueError):
        return None
    return parameter if parameter is not None and "Temperature" in str(parameter.annotation) else None


def _is_policy(temperature: Any) -> bool:
    return not isinstance(temperature, type) and isinstance(temperature, Temperature)
