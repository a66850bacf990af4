"""Overrides by dotted path, from the command line or a variant: ``student.width=16``, ``stages.0.epochs=5``.

Values are YAML. A path may go into a section that the recipe leaves at its defaults (``training.optimizer.lr``), and
may add what the schema leaves open: a setting of a node, a teacher, a loss, a feature layer. Any other unknown key is
an error that suggests the closest name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import NoneType
from typing import Any, Final, get_args, get_origin

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.recipe.node_schema import BaseNode
from limbeck.recipe.schema import Recipe, Stage, TrainingNode, to_plain
from limbeck.recipe.yaml_io import parse_yaml
from limbeck.utils.renamed_keys import reject_renamed_path
from limbeck.utils.validation import Settings, format_value, join_path

__all__ = ["apply_changes", "apply_overrides"]

_STAGE_TRAINING: Final = "the changes of a stage"


def apply_overrides(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``document`` with every override applied in order.

    >>> apply_overrides({"student": "small_cnn", "seed": 0}, ["student.width=16", "seed=3"])
    {'student': {'use': 'small_cnn', 'width': 16}, 'seed': 3}
    """
    new: dict[str, Any] = to_plain(document)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals:
            raise LimbeckError(f"the override {override!r} is not of the form path.to.setting=value")
        if not text.strip():
            raise LimbeckError(f"the override {override!r} has no value: write null for none, '' for empty text")
        _set_value(new, path, parse_yaml(text, f"the override {override!r}"))
    return new


def apply_changes(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``document`` with the value of every dotted path in ``changes`` set, in order.

    >>> apply_changes({"student": "small_cnn", "seed": 0}, {"student.width": 16})
    {'student': {'use': 'small_cnn', 'width': 16}, 'seed': 0}
    """
    new: dict[str, Any] = to_plain(document)
    for path, value in changes.items():
        _set_value(new, path, to_plain(value))
    return new


def _set_value(document: dict[str, Any], path: str, value: Any) -> None:
    reject_renamed_path(path.strip())
    keys = path.strip().split(".")
    if not all(keys):
        raise LimbeckError(f"{path!r} is not of the form path.to.setting")
    container: Any = document
    shape: Any = Recipe
    config_path = ""
    for key, next_key in pairwise(keys):
        item = _find_key(container, shape, key, config_path)
        if isinstance(container, dict) and item not in container:
            container[item] = _make_default(container, shape, key, config_path)
        shape, config_path = _child_shape(shape, key), join_path(config_path, key)
        if isinstance(container[item], str) and (_is_a(shape, BaseNode) or isinstance(container, list)):
            container[item] = {"use": container[item]}
        if container[item] is None and _is_a(shape, BaseNode | Settings):
            container[item] = {}
        container = container[item]
        if not isinstance(container, dict | list):
            raise LimbeckError(f"{config_path} is {format_value(container)}, and has no {next_key!r} below it")
    container[_find_key(container, shape, keys[-1], config_path)] = value


def _find_key(container: Any, shape: Any, key: str, config_path: str) -> int | str:
    """``key`` as an index of a list, or as a key that ``shape`` allows."""
    if isinstance(container, list):
        if not (key.isascii() and key.isdigit() and int(key) < len(container)):
            count = f"0 to {len(container) - 1}" if container else "none, since it is empty"
            raise LimbeckError(f"{config_path} is a list: {key!r} is not one of its indices, which are {count}")
        return int(key)
    names = _field_names(shape)
    if key not in container and names is not None and key not in names:
        available = _format_available(key, names, config_path)
        raise LimbeckError(f"{join_path(config_path, key)} is no setting of a recipe; {available}")
    return key


def _make_default(container: Mapping[str, Any], shape: Any, key: str, config_path: str) -> Any:
    """The default of a missing ``key``, below which a value is set."""
    path, child = join_path(config_path, key), _child_shape(shape, key)
    if shape is _STAGE_TRAINING:
        return {}
    if get_origin(shape) is dict:
        if _is_a(child, BaseNode):
            raise LimbeckError(f"{path} does not exist; {_format_available(key, container, config_path)}")
        return {}
    if _field_names(shape) is None:
        available = _format_available(key, container, config_path)
        raise LimbeckError(f"{path} is not in the recipe, so give it whole: {path}={{use: NAME, …}}; {available}")
    field = shape.model_fields[key]
    if field.is_required() and _is_a(child, BaseNode):
        raise LimbeckError(f"{path} is missing: set {path}.use first")
    default = None if field.is_required() else to_plain(field.default)
    return {} if default is None else default


def _format_available(key: str, names: Iterable[str], config_path: str) -> str:
    return f"{config_path or 'the recipe'} has: {suggest_names(key, map(str, names))}"


def _field_names(shape: Any) -> list[str] | None:
    """The keys that ``shape`` can have; ``None`` where any is possible."""
    if shape is _STAGE_TRAINING:
        return list(TrainingNode.model_fields)
    return list(shape.model_fields) if _is_a(shape, Settings) else None


def _child_shape(shape: Any, key: str) -> Any:
    """The type of the value at ``key``; ``None`` where it may be anything."""
    if shape is Stage and key == "training":
        return _STAGE_TRAINING
    if shape is _STAGE_TRAINING:
        return dict[str, Any] if key in ("optimizer", "scheduler") else None
    if get_origin(shape) in (dict, tuple):
        child = get_args(shape)[1 if get_origin(shape) is dict else 0]
    else:
        field = shape.model_fields.get(key) if _is_a(shape, Settings) else None
        child = None if field is None else field.annotation
    members = [member for member in get_args(child) if member is not NoneType]
    is_optional = NoneType in get_args(child) and get_origin(child) not in (dict, tuple)
    return members[0] if is_optional and len(members) == 1 else child


def _is_a(shape: Any, base: Any) -> bool:
    return isinstance(shape, type) and issubclass(shape, base)
