"""Recipes in and out: YAML text, and what the command line lays over it, to a recipe, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.core.errors import LimbeckError
from limbeck.recipe import yaml_io
from limbeck.recipe.messages import format_value
from limbeck.recipe.overrides import apply_overrides
from limbeck.recipe.resolve import fill_defaults
from limbeck.recipe.schema import Recipe, to_plain, validate

__all__ = ["load_recipe", "to_yaml"]


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at the path ``source``, or in the text ``source``, with ``overrides`` laid over it.

    Every key is checked against the schema; whether nodes can be built is for :func:`limbeck.recipe.resolve_recipe`. Where the
    recipe has no ``name``, it is that of the file. Raises ``LimbeckError``, one sentence with the place.

    >>> text = '''
    ... task: Classification
    ... data: Digits
    ... student: {use: small_cnn, width: 8}
    ... stages:
    ...   - {name: pretrain, epochs: 30, objective: {target: CrossEntropyLoss}}
    ... '''
    >>> recipe = load_recipe(text, ["stages.0.epochs=5", "training.optimizer.lr=1e-2"])
    >>> recipe.stages[0].epochs, recipe.training.optimizer.lr
    (5, 0.01)
    """
    text, source_name = yaml_io.read_source(source)
    data = yaml_io.parse_yaml(text, source_name)
    if data is None:
        raise LimbeckError(f"{source_name} is empty: a recipe needs task, data, student and stages")
    if not isinstance(data, Mapping):
        raise LimbeckError(
            f"{source_name} is {format_value(data)}, and a recipe is a mapping of settings, such as `seed: 0`"
        )
    # A run called after nothing would be overwritten by the next: the file's name is the best there is.
    default_name = {"name": Path(source_name).stem} if source_name == str(source) and "name" not in data else {}
    return validate(Recipe, apply_overrides({**default_name, **data}, overrides))


def to_yaml(recipe: Recipe, *, provided: Mapping[str, Any] | None = None) -> str:
    """The recipe as YAML with every setting, defaults too, in the order of the schema.

    What the data decides (classes, channels) is left out unless it is ``provided``. Read back, it is the recipe that
    :func:`limbeck.recipe.fill_defaults` gives, and shows the same.
    """
    return yaml_io.dump_yaml(to_plain(fill_defaults(recipe, provided=provided)))
