"""One loss per teacher instead of a loss on the ensemble.

This is the objective of densely guided distillation (Son et al., ICCV 2021,
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

Weight = float | Schedule


def loss_per_teacher(
    losses: Mapping[str, Loss], weights: Mapping[str, Weight], teachers: Sequence[str]
) -> tuple[dict[str, Loss], dict[str, Weight]]:
    """Replace each loss with ``teacher=None`` by a copy per teacher, named ``name-teacher``.

    The copies share the weight equally. Other losses stay, and so do all if there are fewer than two teachers.

    >>> from limbeck.losses import CrossEntropyLoss, KDLoss
    >>> losses = {"target": CrossEntropyLoss(), "kd": KDLoss()}
    >>> losses, weights = loss_per_teacher(losses, {"kd": 0.8}, ["big", "mid"])
    >>> weights, losses["kd-mid"].teacher
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
                    f"the loss {name!r} for the teacher {teacher!r} is called {loss_name!r}: rename the other"
                )
            expanded[loss_name] = _copy_for_teacher(loss, teacher)
            split_weights[loss_name] = divide_weight(weight, len(teachers))
    return expanded, split_weights


def divide_weight(weight: Weight, count: float) -> Weight:
    """Divide a number or a schedule by ``count``."""
    return _DividedSchedule(weight, count) if callable(weight) else weight / count


@final
@dataclasses.dataclass(frozen=True, slots=True)
class _DividedSchedule:
    """A schedule divided by a number."""

    schedule: Schedule
    divisor: float

    def __call__(self, progress: Progress) -> float:
        return self.schedule(progress) / self.divisor

    def __str__(self) -> str:
        return f"({self.schedule})/{self.divisor:g}"


def _copy_for_teacher(loss: Any, teacher: str) -> Any:
    # Copies must not share a temperature with state.
    clone = copy.deepcopy(loss)
    if dataclasses.is_dataclass(clone) and not isinstance(clone, type):
        return dataclasses.replace(clone, teacher=teacher)
    clone.teacher = teacher
    return clone
