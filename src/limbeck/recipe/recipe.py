"""Recipes in and out: YAML text, and what the command line lays over it, to a recipe, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.core.errors import LimbeckError
from limbeck.recipe import yaml_io as document
from limbeck.recipe.messages import shown
from limbeck.recipe.overrides import overridden
from limbeck.recipe.resolve import resolved
from limbeck.recipe.schema import Recipe, plain, validated

__all__ = ["load", "show"]


def load(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at the path ``source``, or in the text ``source``, with ``overrides`` laid over it.

    Every key is checked against the schema; whether nodes can be built is for :func:`limbeck.recipe.check`. Where the
    recipe has no ``name``, it is that of the file. Raises ``LimbeckError``, one sentence with the place.

    >>> text = '''
    ... task: Classification
    ... data: Digits
    ... student: {use: small_cnn, width: 8}
    ... stages:
    ...   - {name: alone, epochs: 30, objective: {truth: CrossEntropy}}
    ... '''
    >>> recipe = load(text, ["stages.0.epochs=5", "training.optimizer.lr=1e-2"])
    >>> recipe.stages[0].epochs, recipe.training.optimizer.lr
    (5, 0.01)
    """
    text, where = document.read(source)
    data = document.parse(text, where)
    if data is None:
        raise LimbeckError(f"{where} is empty: a recipe needs task, data, student and stages")
    if not isinstance(data, Mapping):
        raise LimbeckError(f"{where} is {shown(data)}, and a recipe is a mapping of settings, such as `seed: 0`")
    # A run called after nothing would be overwritten by the next: the file's name is the best there is.
    named = {"name": Path(where).stem} if where == str(source) and "name" not in data else {}
    return validated(Recipe, overridden({**named, **data}, overrides))


def show(recipe: Recipe, *, given: Mapping[str, Any] | None = None) -> str:
    """The recipe as YAML with every setting, defaults too, in the order of the schema.

    What the data decides (classes, channels) is left out unless it is ``given``. Read back, it is the recipe that
    :func:`limbeck.recipe.resolved` gives, and shows the same.
    """
    return document.dump(plain(resolved(recipe, given=given)))
