"""Born-again generations in a recipe: the student's own shape as its teacher, and as every assistant between.

Furlanello et al., ICML 2018, https://arxiv.org/abs/1805.04770.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.recipe.scalars import refuse

__all__ = ["generation", "spread"]


def generation(number: int) -> str:
    """The name of a generation, counted from 1."""
    return f"generation{number}"


def spread(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """``recipe`` with the teacher and the assistants that its ``generations`` stand for.

    Of N generations the first is the teacher, which learns by ``teaching``; the student is the last.

    >>> found = spread({"generations": 3, "student": "small_cnn"})
    >>> found["teachers"], found["assistants"]
    ({'generation1': 'small_cnn'}, {'generation2': 'small_cnn'})
    """
    many = recipe.get("generations")
    if not isinstance(many, int) or isinstance(many, bool) or many < 2 or "student" not in recipe:
        return recipe  # nothing asked for, or a mistake that the schema tells
    student = recipe["student"]
    own = {
        "teachers": {generation(1): student},
        "assistants": {generation(number): student for number in range(2, many)},
    }
    for key, made in own.items():
        # A recipe that was written out has them already, perhaps with weights for the first.
        if (given := recipe.get(key)) and list(given) != list(made):
            refuse(
                f"{key}: generations makes its own ({', '.join(made) or 'none'}), and {', '.join(given)} is given: "
                f"leave {key} away, or generations"
            )
    return {**recipe, **{key: recipe.get(key) or made for key, made in own.items()}}
