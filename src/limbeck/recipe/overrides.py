"""Overrides by dotted path, from the command line or a variant: ``student.width=16``, ``stages.0.epochs=5``.

Values are YAML. A path may go into a section that the recipe leaves at its defaults (``training.optimizer.lr``), and
may add what the schema leaves open: a setting of a node, a teacher, a loss, a feature layer. Any other unknown key is
an error that suggests the closest name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.recipe.schema import LossNode, Node, Recipe, SchedulerNode, Stage, TeacherNode, TrainingNode, to_plain
from limbeck.recipe.validation import format_value, join_path
from limbeck.recipe.yaml_io import parse_yaml
from limbeck.utils.renamed_keys import reject_renamed_path

__all__ = ["apply_changes", "apply_overrides"]

_NODE_TYPES: Final = (Node, LossNode, TeacherNode, SchedulerNode)
_NODE_SETTINGS: Final = "the settings of a node"
_STAGE_TRAINING: Final = "the changes of a stage"


def apply_overrides(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``document`` with every override applied in order.

    >>> apply_overrides({"student": "small_cnn", "seed": 0}, ["student.width=16", "seed=3"])
    {'student': {'use': 'small_cnn', 'width': 16}, 'seed': 3}
    """
    new: dict[str, Any] = to_plain(document)
    for override in overrides:
        path, equals, text = override.partition("=")
        reject_renamed_path(path.strip())
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise LimbeckError(f"the override {override!r} is not of the form path.to.setting=value")
        if not text.strip():
            raise LimbeckError(f"the override {override!r} has no value: write null for none, '' for empty text")
        _set_value(new, keys, parse_yaml(text, f"the override {override!r}"))
    return new


def apply_changes(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``document`` with the value of every dotted path in ``changes`` set, in order.

    >>> apply_changes({"student": "small_cnn", "seed": 0}, {"student.width": 16})
    {'student': {'use': 'small_cnn', 'width': 16}, 'seed': 0}
    """
    new: dict[str, Any] = to_plain(document)
    for path, value in changes.items():
        reject_renamed_path(path.strip())
        keys = path.strip().split(".")
        if not all(keys):
            raise LimbeckError(f"{path!r} is not of the form path.to.setting")
        _set_value(new, keys, to_plain(value))
    return new


def _set_value(document: dict[str, Any], keys: list[str], value: Any) -> None:
    container: Any = document
    shape: Any = Recipe
    config_path = ""
    for index, key in enumerate(keys):
        is_last = index == len(keys) - 1
        item = _resolve_key(container, shape, key, config_path, is_last)
        shape, config_path = _child_shape(shape, key), join_path(config_path, key)
        if is_last:
            container[item] = value
            return
        if isinstance(container[item], str) and (shape in _NODE_TYPES or isinstance(container, list)):
            container[item] = {"use": container[item]}
        if container[item] is None and isinstance(shape, type) and issubclass(shape, BaseModel):
            container[item] = {}
        container = container[item]
        if not isinstance(container, dict | list):
            raise LimbeckError(f"{config_path} is {format_value(container)}, and has no {keys[index + 1]!r} below it")


def _resolve_key(container: Any, shape: Any, key: str, config_path: str, is_last: bool) -> int | str:
    """``key`` as a key or index of ``container``; a missing section is set to the default of the schema."""
    if isinstance(container, list):
        if not (key.isascii() and key.isdigit() and int(key) < len(container)):
            count = f"0 to {len(container) - 1}" if container else "none, since it is empty"
            raise LimbeckError(f"{config_path} is a list: {key!r} is not one of its indices, which are {count}")
        return int(key)
    if key in container:
        return key
    names = _allowed_keys(shape)
    if names is not None and key not in names:
        raise LimbeckError(
            f"{join_path(config_path, key)} is no setting of a recipe; {_format_available(key, names, config_path)}"
        )
    if not is_last:
        container[key] = _make_default(container, shape, key, config_path)
    return key


def _make_default(container: Mapping[str, Any], shape: Any, key: str, config_path: str) -> Any:
    """The default of ``key``, below which a value is set."""
    if shape is _STAGE_TRAINING or get_origin(shape) is dict:
        inner = _child_shape(shape, key)
        if inner not in _NODE_TYPES or shape is _STAGE_TRAINING:
            return {}
        raise LimbeckError(
            f"{join_path(config_path, key)} does not exist; {_format_available(key, container, config_path)}"
        )
    if _allowed_keys(shape) is None:
        full_path, available = join_path(config_path, key), _format_available(key, container, config_path)
        raise LimbeckError(
            f"{full_path} is not in the recipe, so give it whole: {full_path}={{use: NAME, …}}; {available}"
        )
    field = shape.model_fields[key]
    if field.is_required() and _child_shape(shape, key) in _NODE_TYPES:
        raise LimbeckError(f"{join_path(config_path, key)} is missing: set {join_path(config_path, key)}.use first")
    default = None if field.is_required() else to_plain(field.get_default(call_default_factory=True))
    return {} if default is None else default


def _format_available(key: str, names: Any, config_path: str) -> str:
    return f"{config_path or 'the recipe'} has: {suggest_names(key, map(str, names))}"


def _allowed_keys(shape: Any) -> list[str] | None:
    """The keys that ``shape`` can have; ``None`` where any is possible."""
    if shape is _STAGE_TRAINING:
        return list(TrainingNode.model_fields)
    if isinstance(shape, type) and issubclass(shape, BaseModel) and shape not in _NODE_TYPES:
        return list(shape.model_fields)
    return None


def _child_shape(shape: Any, key: str) -> Any:
    if shape is _STAGE_TRAINING:
        return dict[str, Any] if key in ("optimizer", "scheduler") else None
    if shape in _NODE_TYPES or shape is _NODE_SETTINGS or shape is None:
        return _NODE_SETTINGS
    if get_origin(shape) is dict:
        return _strip_optional(get_args(shape)[1])
    if get_origin(shape) is tuple:
        return _strip_optional(get_args(shape)[0])
    if shape is Stage and key == "training":
        return _STAGE_TRAINING
    field = getattr(shape, "model_fields", {}).get(key)
    return None if field is None else _strip_optional(field.annotation)


def _strip_optional(annotation: Any) -> Any:
    """``X`` of ``X | None``."""
    members = [member for member in get_args(annotation) if member is not type(None)]
    is_optional = (
        len(members) < len(get_args(annotation)) and len(members) == 1 and get_origin(annotation) not in (dict, tuple)
    )
    return members[0] if is_optional else annotation
