"""The usual temperatures of a task, and the bounds of numbers, schedules and policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import DEFAULT_TEMPERATURE
from limbeck.core.progress import Progress
from limbeck.core.protocols import Loss, loss_attribute
from limbeck.core.schedules import Schedule
from limbeck.losses.temperature.policy import Temperature

_NUM_STEPS: Final = 100


@final
@dataclass(frozen=True, slots=True)
class Range:
    """The usual temperatures of a task: ``default``, and the range from ``low`` to ``high``."""

    default: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.default <= self.high:
            raise LimbeckError(f"a range of temperatures must have 0 < low <= default <= high, got {self}")


CLASSIFICATION: Final = Range(default=DEFAULT_TEMPERATURE, low=3.0, high=6.0)
DETECTION: Final = Range(default=1.0, low=1.0, high=3.0)
"""Lower than in classification: each class has a sigmoid of its own, so no distribution over classes is softened."""


def temperature_warning(low: float, high: float, *, expected: Range, loss_name: str, task: str) -> str | None:
    """A warning where temperatures from ``low`` to ``high`` all lie outside the usual range; else ``None``.

    >>> temperature_warning(12.0, 12.0, expected=Range(4.0, 3.0, 6.0), loss_name="kd", task="Classification")
    'the temperature of kd is 12, and the usual range of Classification is 3 to 6: check that this is intended'
    """
    if high >= expected.low and low <= expected.high:
        return None
    value = f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g}"
    return (
        f"the temperature of {loss_name} is {value}, and the usual range of {task} is {expected.low:g} to "
        f"{expected.high:g}: check that this is intended"
    )


def temperature_warnings(losses: Mapping[str, Loss], task: object) -> list[str]:
    """One sentence for each temperature outside the usual range of ``task``; none where the task declares no range.

    A task declares it as ``temperatures``, a :class:`Range`. It applies to losses with ``uses_task_temperature``, whose
    ``temperature`` is given.

    >>> import limbeck
    >>> from limbeck.losses import KDLoss
    >>> temperature_warnings({"kd": KDLoss(temperature=20.0)}, limbeck.tasks.Classification(classes=10))
    ['the temperature of kd is 20, and the usual range of Classification is 3 to 6: check that this is intended']
    """
    expected = getattr(task, "temperatures", None)
    if not isinstance(expected, Range):
        return []
    messages = []
    for name, loss in losses.items():
        temperature: Any = getattr(loss, "temperature", None)
        if temperature is not None and loss_attribute(loss, "uses_task_temperature"):
            low, high = temperature_range(temperature)
            messages.append(temperature_warning(low, high, expected=expected, loss_name=name, task=type(task).__name__))
    return [message for message in messages if message is not None]


def temperature_range(temperature: float | Schedule | Temperature | Any) -> tuple[float, float]:
    """The lowest and the highest value of a number, a schedule (over training) or a policy.

    >>> from limbeck import schedules
    >>> temperature_range(4.0), temperature_range(schedules.cosine(6.0, 3.0))
    ((4.0, 4.0), (3.0, 6.0))
    """
    if not callable(temperature):
        return float(temperature), float(temperature)
    if isinstance(temperature, Temperature):
        return temperature.bounds()
    steps = range(_NUM_STEPS + 1)
    values = [temperature(Progress(step=step, steps=_NUM_STEPS, total_steps=_NUM_STEPS)) for step in steps]
    return min(values), max(values)
