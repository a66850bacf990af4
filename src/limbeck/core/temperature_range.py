"""The usual temperatures of a task; imports no torch, since recipes read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast, final

from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.core.schedules import Schedule

__all__ = ["CLASSIFICATION", "DEFAULT_TEMPERATURE", "DETECTION", "Range", "temperature_range", "temperature_warning"]

DEFAULT_TEMPERATURE: Final = 4.0
"""The default temperature where the task declares none."""
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
            raise LimbeckError(
                f"a range of temperatures has 0 < low <= default <= high, not {self.low:g}, {self.default:g}, "
                f"{self.high:g}"
            )


CLASSIFICATION: Final = Range(default=DEFAULT_TEMPERATURE, low=3.0, high=6.0)
"""Usual temperatures of classification."""
DETECTION: Final = Range(default=2.0, low=1.0, high=3.0)
"""Usual temperatures of detection: lower, since most boxes are background."""


def temperature_warning(low: float, high: float, *, expected: Range, loss_name: str, task: str) -> str | None:
    """A warning where temperatures from ``low`` to ``high`` all lie outside the usual range; else ``None``.

    >>> temperature_warning(12.0, 12.0, expected=Range(4.0, 3.0, 6.0), loss_name="kd", task="Classification")
    'the temperature of kd is 12, and Classification is used to 3 to 6: keep it only if you mean it'
    >>> temperature_warning(1.0, 21.0, expected=Range(4.0, 3.0, 6.0), loss_name="kd", task="Classification") is None
    True
    """
    if high >= expected.low and low <= expected.high:
        return None
    value_text = f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g}"
    return (
        f"the temperature of {loss_name} is {value_text}, and {task} is used to {expected.low:g} to "
        f"{expected.high:g}: keep it only if "
        "you mean it"
    )


def temperature_range(temperature: float | Schedule | Any) -> tuple[float, float]:
    """The lowest and the highest value of a number, a schedule or a policy.

    >>> from limbeck import schedules
    >>> temperature_range(4.0), temperature_range(schedules.cosine(6.0, 3.0))
    ((4.0, 4.0), (3.0, 6.0))
    """
    if not callable(temperature):
        return float(temperature), float(temperature)
    bounds = getattr(temperature, "bounds", None)
    if bounds is not None:
        low, high = bounds()
        return float(low), float(high)
    schedule = cast(Schedule, temperature)
    values = [schedule(Progress(step=i, steps=_NUM_STEPS, total_steps=_NUM_STEPS)) for i in range(_NUM_STEPS + 1)]
    return min(values), max(values)
