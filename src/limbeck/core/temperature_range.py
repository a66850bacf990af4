"""Which temperatures are sane for a task, and what to say of one that is not; without torch, as recipes read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast, final

from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.core.schedules import Schedule

__all__ = ["CLASSIFICATION", "DETECTION", "USUAL", "Range", "doubt", "span"]

USUAL: Final = 4.0
"""The temperature of a method that has none of its own; in a recipe that of the task takes its place."""
_LOOKS: Final = 100


@final
@dataclass(frozen=True, slots=True)
class Range:
    """The temperatures that a task is used to: a ``usual`` one, and the range from ``low`` to ``high`` around it."""

    usual: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.usual <= self.high:
            raise LimbeckError(
                f"a range of temperatures has 0 < low <= usual <= high, not {self.low:g}, {self.usual:g}, {self.high:g}"
            )


CLASSIFICATION: Final = Range(usual=USUAL, low=3.0, high=6.0)
"""Where classifiers are distilled."""
DETECTION: Final = Range(usual=2.0, low=1.0, high=3.0)
"""Where detectors are: most boxes are background, in which a high temperature drowns everything else."""


def doubt(low: float, high: float, *, usual: Range, who: str, task: str) -> str | None:
    """What to say of temperatures from ``low`` to ``high``, all of which lie outside of the usual range; else ``None``.

    >>> doubt(12.0, 12.0, usual=Range(4.0, 3.0, 6.0), who="soft", task="Classification")
    'the temperature of soft is 12, and Classification is used to 3 to 6: keep it only if you mean it'
    >>> doubt(1.0, 21.0, usual=Range(4.0, 3.0, 6.0), who="soft", task="Classification") is None
    True
    """
    if high >= usual.low and low <= usual.high:
        return None
    said = f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g}"
    return (
        f"the temperature of {who} is {said}, and {task} is used to {usual.low:g} to {usual.high:g}: keep it only if "
        "you mean it"
    )


def span(tau: float | Schedule | Any) -> tuple[float, float]:
    """The lowest and the highest temperature that a number, a schedule or a policy can give.

    >>> from limbeck import schedule
    >>> span(4.0), span(schedule.cosine(6.0, 3.0))
    ((4.0, 4.0), (3.0, 6.0))
    """
    if not callable(tau):
        return float(tau), float(tau)
    known = getattr(tau, "bounds", None)
    if known is not None:
        low, high = known()
        return float(low), float(high)
    schedule = cast(Schedule, tau)
    values = [schedule(Progress(step=i, steps=_LOOKS, total=_LOOKS)) for i in range(_LOOKS + 1)]
    return min(values), max(values)
