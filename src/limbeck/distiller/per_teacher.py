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
from limbeck.core.protocols import Term
from limbeck.core.schedules import Schedule

__all__ = ["each_teacher", "shared"]

Weight = float | Schedule


def each_teacher(
    terms: Mapping[str, Term], weights: Mapping[str, Weight], teachers: Sequence[str]
) -> tuple[dict[str, Term], dict[str, Weight]]:
    """``terms`` and ``weights`` with one term for each of ``teachers`` where a term would take their combination.

    A term takes the combination where its ``teacher`` is ``None``. Each copy is called ``name-teacher`` and has its
    share of the weight, so that the whole weighs what it did. Other terms stay as they are, and so do all where there
    are fewer than two teachers.

    >>> from limbeck.losses import CrossEntropy, SoftTarget
    >>> terms, weights = each_teacher({"truth": CrossEntropy(), "soft": SoftTarget()}, {"soft": 0.8}, ["big", "mid"])
    >>> weights, terms["soft-mid"].teacher
    ({'truth': 1.0, 'soft-big': 0.4, 'soft-mid': 0.4}, 'mid')
    """
    spread: dict[str, Term] = {}
    shares: dict[str, Weight] = {}
    for name, term in terms.items():
        weight = weights.get(name, 1.0)
        if len(teachers) < 2 or getattr(term, "teacher", "none") is not None:
            spread[name], shares[name] = term, weight
            continue
        for teacher in teachers:
            called = f"{name}-{teacher}"
            if called in terms:
                raise LimbeckError(
                    f"the term {name!r} to the teacher {teacher!r} is called {called!r}: rename the other"
                )
            spread[called], shares[called] = _addressed(term, teacher), shared(weight, len(teachers))
    return spread, shares


def shared(weight: Weight, many: float) -> Weight:
    """One of ``many`` equal shares of a number or a schedule.

    >>> shared(0.8, 2)
    0.4
    """
    return _Share(weight, many) if callable(weight) else weight / many


@final
@dataclasses.dataclass(frozen=True, slots=True)
class _Share:
    """One of several equal shares of a schedule."""

    schedule: Schedule
    many: float

    def __call__(self, progress: Progress) -> float:
        return self.schedule(progress) / self.many

    def __str__(self) -> str:
        return f"({self.schedule})/{self.many:g}"


def _addressed(term: Any, teacher: str) -> Any:
    """A copy of ``term`` that speaks to this teacher only."""
    if dataclasses.is_dataclass(term) and not isinstance(term, type):
        # A temperature that keeps state would be moved by every copy that shared it.
        return dataclasses.replace(copy.deepcopy(term), teacher=teacher)
    mine = copy.deepcopy(term)
    mine.teacher = teacher
    return mine
