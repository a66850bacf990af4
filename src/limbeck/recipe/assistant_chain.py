"""Who learns from whom where assistants stand between the teachers and the student.

One after the other: Mirzadeh et al., AAAI 2020, https://arxiv.org/abs/1902.03393. Densely guided, by all before it: Son
et al., ICCV 2021, https://arxiv.org/abs/2009.08825.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

__all__ = ["AssistantMode", "TrainingPair", "training_order"]

AssistantMode = Literal["sequential", "dense"]


class TrainingPair(NamedTuple):
    """One training: who learns, and from whom."""

    student: str
    teachers: tuple[str, ...]


def training_order(
    teachers: Sequence[str], students: Sequence[str], *, assistant_mode: AssistantMode = "sequential"
) -> list[TrainingPair]:
    """Each of ``students`` (from large to small) with its teachers, in the order of training.

    With ``sequential`` the first learns from the teachers and every other from the one before it; with ``dense`` each learns
    from the teachers and from all before it.

    >>> [link.teachers for link in training_order(["big"], ["mid", "small", "student"])]
    [('big',), ('mid',), ('small',)]
    >>> [link.teachers for link in training_order(["big"], ["mid", "small", "student"], assistant_mode="dense")]
    [('big',), ('big', 'mid'), ('big', 'mid', 'small')]
    """
    pairs = []
    current_teachers = tuple(teachers)
    for student in students:
        pairs.append(TrainingPair(student, current_teachers))
        current_teachers = (*current_teachers, student) if assistant_mode == "dense" else (student,)
    return pairs
