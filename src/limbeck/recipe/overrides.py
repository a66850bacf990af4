"""Settings from the command line, laid over a recipe before it is read: ``student.width=16``, ``stages.0.epochs=5``.

The value is YAML. A path may go below a part that the recipe leaves to its defaults (``training.optimizer.lr``), and
may name what the schema allows to be new: a setting of a node, a teacher, a term, a tap. Anything else that is not
there is a misspelling, and is answered with the nearest name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel

from limbeck.core.errors import LimbeckError, nearest
from limbeck.recipe.messages import at, shown
from limbeck.recipe.schema import Node, Recipe, Scheduler, Stage, Teacher, Term, Training, plain
from limbeck.recipe.yaml_io import parse

__all__ = ["changed", "overridden"]

_NODES: Final = (Node, Term, Teacher, Scheduler)
_OPEN: Final = "the settings of a node"
_CHANGES: Final = "the changes of a stage"


def overridden(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``document`` with every override done, in their order; ``document`` itself stays as it was.

    >>> overridden({"student": "small_cnn", "seed": 0}, ["student.width=16", "seed=3"])
    {'student': {'use': 'small_cnn', 'width': 16}, 'seed': 3}
    """
    new: dict[str, Any] = _copied(document)
    for override in overrides:
        path, equals, text = override.partition("=")
        steps = path.strip().split(".")
        if not equals or not all(steps):
            raise LimbeckError(f"the override {override!r} is not of the form path.to.setting=value")
        if not text.strip():
            raise LimbeckError(f"the override {override!r} has no value: write null for none, '' for empty text")
        _set(new, steps, parse(text, f"the override {override!r}"))
    return new


def changed(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` with the value of every dotted path in ``changes`` set, in their order; it stays as it was.

    >>> changed({"student": "small_cnn", "seed": 0}, {"student.width": 16})
    {'student': {'use': 'small_cnn', 'width': 16}, 'seed': 0}
    """
    new: dict[str, Any] = _copied(document)
    for path, value in changes.items():
        steps = path.strip().split(".")
        if not all(steps):
            raise LimbeckError(f"{path!r} is not of the form path.to.setting")
        _set(new, steps, _copied(value))
    return new


def _set(document: dict[str, Any], steps: list[str], value: Any) -> None:
    here: Any = document
    shape: Any = Recipe
    place = ""
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        key = _key(here, shape, step, place, last)
        shape, place = _below(shape, step), at(place, step)
        if last:
            here[key] = value
            return
        if isinstance(here[key], str) and (shape in _NODES or isinstance(here, list)):
            here[key] = {"use": here[key]}
        if here[key] is None and isinstance(shape, type) and issubclass(shape, BaseModel):
            here[key] = {}
        here = here[key]
        if not isinstance(here, dict | list):
            raise LimbeckError(f"{place} is {shown(here)}, and has no {steps[number + 1]!r} below it")


def _key(here: Any, shape: Any, step: str, place: str, last: bool) -> int | str:
    """The key or index of ``step`` in ``here``, which is given the default of the schema where there is none yet."""
    if isinstance(here, list):
        if not (step.isascii() and step.isdigit() and int(step) < len(here)):
            count = f"0 to {len(here) - 1}" if here else "none, since it is empty"
            raise LimbeckError(f"{place} is a list: {step!r} is not one of its places, which are {count}")
        return int(step)
    if step in here:
        return step
    names = _names(shape)
    if names is not None and step not in names:
        raise LimbeckError(f"{at(place, step)} is no setting of a recipe; {_there(step, names, place)}")
    if not last:
        here[step] = _fresh(here, shape, step, place)
    return step


def _fresh(here: Mapping[str, Any], shape: Any, step: str, place: str) -> Any:
    """What stands at ``step`` when the recipe says nothing and something is set below it."""
    if shape is _CHANGES or get_origin(shape) is dict:
        inner = _below(shape, step)
        if inner not in _NODES or shape is _CHANGES:
            return {}
        raise LimbeckError(f"{at(place, step)} does not exist; {_there(step, here, place)}")
    if _names(shape) is None:
        whole, there = at(place, step), _there(step, here, place)
        raise LimbeckError(f"{whole} is not in the recipe, so give it whole: {whole}={{use: NAME, …}}; {there}")
    field = shape.model_fields[step]
    if field.is_required() and _below(shape, step) in _NODES:
        raise LimbeckError(f"{at(place, step)} is missing: set {at(place, step)}.use first")
    default = None if field.is_required() else plain(field.get_default(call_default_factory=True))
    return {} if default is None else default


def _there(step: str, names: Any, place: str) -> str:
    return f"{place or 'the recipe'} has: {nearest(step, map(str, names))}"


def _names(shape: Any) -> list[str] | None:
    """The keys that ``shape`` can have; ``None`` where any is possible."""
    if shape is _CHANGES:
        return list(Training.model_fields)
    if isinstance(shape, type) and issubclass(shape, BaseModel) and shape not in _NODES:
        return list(shape.model_fields)
    return None


def _below(shape: Any, step: str) -> Any:
    if shape is _CHANGES:
        return dict[str, Any] if step in ("optimizer", "scheduler") else None
    if shape in _NODES or shape is _OPEN or shape is None:
        return _OPEN
    if get_origin(shape) is dict:
        return _meant(get_args(shape)[1])
    if get_origin(shape) is tuple:
        return _meant(get_args(shape)[0])
    if shape is Stage and step == "training":
        return _CHANGES
    field = getattr(shape, "model_fields", {}).get(step)
    return None if field is None else _meant(field.annotation)


def _meant(annotation: Any) -> Any:
    """Of ``X | None`` the X."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    nullable = (
        len(parts) < len(get_args(annotation)) and len(parts) == 1 and get_origin(annotation) not in (dict, tuple)
    )
    return parts[0] if nullable else annotation


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
