"""An objective that listens to each of several teachers by itself, rather than to their combination.

The mean over teachers of a term to each: what densely guided distillation asks for (Son et al., ICCV 2021,
https://arxiv.org/abs/2009.08825, whose loss is the sum; the mean is the same direction at any number of teachers).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, final

from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule

__all__ = ["divide_weight", "loss_per_teacher"]

Weight = float | Schedule


def loss_per_teacher(
    losses: Mapping[str, Loss], weights: Mapping[str, Weight], teachers: Sequence[str]
) -> tuple[dict[str, Loss], dict[str, Weight]]:
    """``losses`` and ``weights`` with one term for each of ``teachers`` where a term would take their combination.

    A term takes the combination where its ``teacher`` is ``None``. Each copy is called ``name-teacher`` and has its
    share of the weight, so that the whole weighs what it did. Other terms stay as they are, and so do all where there
    are fewer than two teachers.

    >>> from limbeck.losses import CrossEntropyLoss, KDLoss
    >>> terms, weights = loss_per_teacher({"target": CrossEntropyLoss(), "kd": KDLoss()}, {"kd": 0.8}, ["big", "mid"])
    >>> weights, terms["kd-mid"].teacher
    ({'target': 1.0, 'kd-big': 0.4, 'kd-mid': 0.4}, 'mid')
    """
    expanded: dict[str, Loss] = {}
    split_weights: dict[str, Weight] = {}
    for name, loss in losses.items():
        weight = weights.get(name, 1.0)
        if len(teachers) < 2 or getattr(loss, "teacher", "none") is not None:
            expanded[name], split_weights[name] = loss, weight
            continue
        for teacher in teachers:
            loss_name = f"{name}-{teacher}"
            if loss_name in losses:
                raise LimbeckError(
                    f"the term {name!r} to the teacher {teacher!r} is called {loss_name!r}: rename the other"
                )
            expanded[loss_name], split_weights[loss_name] = (
                _copy_for_teacher(loss, teacher),
                divide_weight(weight, len(teachers)),
            )
    return expanded, split_weights


def divide_weight(weight: Weight, count: float) -> Weight:
    """One of ``count`` equal shares of a number or a schedule.

    >>> divide_weight(0.8, 2)
    0.4
    """
    return _DividedSchedule(weight, count) if callable(weight) else weight / count


@final
@dataclasses.dataclass(frozen=True, slots=True)
class _DividedSchedule:
    """One of several equal shares of a schedule."""

    schedule: Schedule
    divisor: float

    def __call__(self, progress: Progress) -> float:
        return self.schedule(progress) / self.divisor

    def __str__(self) -> str:
        return f"({self.schedule})/{self.divisor:g}"


def _copy_for_teacher(loss: Any, teacher: str) -> Any:
    """A copy of ``loss`` that speaks to this teacher only."""
    if dataclasses.is_dataclass(loss) and not isinstance(loss, type):
        # A temperature that keeps state would be moved by every copy that shared it.
        return dataclasses.replace(copy.deepcopy(loss), teacher=teacher)
    clone = copy.deepcopy(loss)
    clone.teacher = teacher
    return clone
