"""Born-again generations in a recipe: the student's own shape as its teacher, and as every assistant between.

Furlanello et al., ICML 2018, https://arxiv.org/abs/1805.04770.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.recipe.scalars import raise_validation_error

__all__ = ["expand_generations", "generation_name"]


def generation_name(index: int) -> str:
    """The name of a generation, counted from 1."""
    return f"generation{index}"


def expand_generations(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """``recipe`` with the teacher and the assistants that its ``generations`` stand for.

    Of N generations the first is the teacher, which learns by ``teacher_training``; the student is the last.

    >>> expanded = expand_generations({"generations": 3, "student": "small_cnn"})
    >>> expanded["teachers"], expanded["assistants"]
    ({'generation1': 'small_cnn'}, {'generation2': 'small_cnn'})
    """
    count = recipe.get("generations")
    if not isinstance(count, int) or isinstance(count, bool) or count < 2 or "student" not in recipe:
        return recipe  # nothing asked for, or a mistake that the schema tells
    student = recipe["student"]
    expanded = {
        "teachers": {generation_name(1): student},
        "assistants": {generation_name(index): student for index in range(2, count)},
    }
    for key, nodes in expanded.items():
        # A recipe that was written out has them already, perhaps with weights for the first.
        if (existing := recipe.get(key)) and list(existing) != list(nodes):
            raise_validation_error(
                f"{key}: generations makes its own ({', '.join(nodes) or 'none'}), and {', '.join(existing)} is given: "
                f"leave {key} away, or generations"
            )
    return {**recipe, **{key: recipe.get(key) or nodes for key, nodes in expanded.items()}}
