"""The order of training with assistants, and the assistants of born-again generations.

Assistants one after the other: Mirzadeh et al., AAAI 2020, https://arxiv.org/abs/1902.03393; each from all before it:
Son et al., ICCV 2021, https://arxiv.org/abs/2009.08825. Generations: Furlanello et al., ICML 2018,
https://arxiv.org/abs/1805.04770.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from limbeck.core.limits import MAX_GENERATIONS
from limbeck.utils.validation import raise_validation_error

__all__ = ["AssistantMode", "TrainingPair", "expand_generations", "generation_name", "training_order"]

AssistantMode = Literal["sequential", "dense"]


class TrainingPair(NamedTuple):
    """One training: a student and its teachers, by name."""

    student: str
    teachers: tuple[str, ...]


def training_order(
    teachers: Sequence[str], students: Sequence[str], *, assistant_mode: AssistantMode = "sequential"
) -> list[TrainingPair]:
    """Each of ``students`` (from large to small) with its teachers, in the order of training.

    With ``sequential`` the first learns from the teachers and every other from the one before it; with ``dense`` each
    learns from the teachers and from all students before it.

    >>> [pair.teachers for pair in training_order(["big"], ["mid", "small", "student"])]
    [('big',), ('mid',), ('small',)]
    >>> [pair.teachers for pair in training_order(["big"], ["mid", "small", "student"], assistant_mode="dense")]
    [('big',), ('big', 'mid'), ('big', 'mid', 'small')]
    """
    pairs, current_teachers = [], tuple(teachers)
    for student in students:
        pairs.append(TrainingPair(student, current_teachers))
        current_teachers = (*current_teachers, student) if assistant_mode == "dense" else (student,)
    return pairs


def generation_name(index: int) -> str:
    """The name of a generation, counted from 1."""
    return f"generation{index}"


def expand_generations(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """``recipe`` with the teacher and the assistants of its ``generations``.

    Of N generations the first is the teacher, which ``teacher_training`` trains; the student is the last.

    >>> expanded = expand_generations({"generations": 3, "student": "small_cnn"})
    >>> expanded["teachers"], expanded["assistants"]
    ({'generation1': 'small_cnn'}, {'generation2': 'small_cnn'})
    """
    count = recipe.get("generations")
    if not isinstance(count, int) or not 2 <= count <= MAX_GENERATIONS or "student" not in recipe:
        return recipe  # no generations, or a mistake that the schema reports
    first, *others = (generation_name(index) for index in range(1, count))
    new = {**recipe}
    for key, names in (("teachers", [first]), ("assistants", others)):
        # A resolved recipe holds them already, perhaps with weights for the first.
        if (existing := recipe.get(key)) and list(existing) != names:
            raise_validation_error(
                f"{key}: generations makes its own ({', '.join(names) or 'none'}), and {', '.join(existing)} is given: "
                f"remove {key} or generations"
            )
        new[key] = existing or dict.fromkeys(names, recipe["student"])
    return new
