"""Settings from the command line, laid over a recipe before it is read: ``student.width=16``, ``stages.0.epochs=5``.

The value is YAML. A path may go below a part that the recipe leaves to its defaults (``training.optimizer.lr``), and
may name what the schema allows to be new: a setting of a node, a teacher, a loss, a feature layer. Anything else that is not
there is a misspelling, and is answered with the nearest name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.recipe.messages import format_value, join_path
from limbeck.recipe.schema import LossNode, Node, Recipe, SchedulerNode, Stage, TeacherNode, TrainingNode, to_plain
from limbeck.recipe.yaml_io import parse_yaml
from limbeck.utils.renamed_keys import reject_renamed_path

__all__ = ["apply_changes", "apply_overrides"]

_NODE_TYPES: Final = (Node, LossNode, TeacherNode, SchedulerNode)
_NODE_SETTINGS: Final = "the settings of a node"
_STAGE_TRAINING: Final = "the changes of a stage"


def apply_overrides(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``document`` with every override done, in their order; ``document`` itself stays as it was.

    >>> apply_overrides({"student": "small_cnn", "seed": 0}, ["student.width=16", "seed=3"])
    {'student': {'use': 'small_cnn', 'width': 16}, 'seed': 3}
    """
    new: dict[str, Any] = _deep_copy(document)
    for override in overrides:
        path, equals, text = override.partition("=")
        reject_renamed_path(path.strip())
        segments = path.strip().split(".")
        if not equals or not all(segments):
            raise LimbeckError(f"the override {override!r} is not of the form path.to.setting=value")
        if not text.strip():
            raise LimbeckError(f"the override {override!r} has no value: write null for none, '' for empty text")
        _set_value(new, segments, parse_yaml(text, f"the override {override!r}"))
    return new


def apply_changes(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` with the value of every dotted path in ``changes`` set, in their order; it stays as it was.

    >>> apply_changes({"student": "small_cnn", "seed": 0}, {"student.width": 16})
    {'student': {'use': 'small_cnn', 'width': 16}, 'seed': 0}
    """
    new: dict[str, Any] = _deep_copy(document)
    for path, value in changes.items():
        reject_renamed_path(path.strip())
        segments = path.strip().split(".")
        if not all(segments):
            raise LimbeckError(f"{path!r} is not of the form path.to.setting")
        _set_value(new, segments, _deep_copy(value))
    return new


def _set_value(document: dict[str, Any], segments: list[str], value: Any) -> None:
    container: Any = document
    shape: Any = Recipe
    config_path = ""
    for index, segment in enumerate(segments):
        is_last = index == len(segments) - 1
        key = _resolve_key(container, shape, segment, config_path, is_last)
        shape, config_path = _child_shape(shape, segment), join_path(config_path, segment)
        if is_last:
            container[key] = value
            return
        if isinstance(container[key], str) and (shape in _NODE_TYPES or isinstance(container, list)):
            container[key] = {"use": container[key]}
        if container[key] is None and isinstance(shape, type) and issubclass(shape, BaseModel):
            container[key] = {}
        container = container[key]
        if not isinstance(container, dict | list):
            raise LimbeckError(
                f"{config_path} is {format_value(container)}, and has no {segments[index + 1]!r} below it"
            )


def _resolve_key(container: Any, shape: Any, segment: str, config_path: str, is_last: bool) -> int | str:
    """The key or index of ``segment`` in ``container``, which is given the default of the schema where there is none yet."""
    if isinstance(container, list):
        if not (segment.isascii() and segment.isdigit() and int(segment) < len(container)):
            count = f"0 to {len(container) - 1}" if container else "none, since it is empty"
            raise LimbeckError(f"{config_path} is a list: {segment!r} is not one of its places, which are {count}")
        return int(segment)
    if segment in container:
        return segment
    names = _allowed_keys(shape)
    if names is not None and segment not in names:
        raise LimbeckError(
            f"{join_path(config_path, segment)} is no setting of a recipe; {_format_available(segment, names, config_path)}"
        )
    if not is_last:
        container[segment] = _make_default(container, shape, segment, config_path)
    return segment


def _make_default(container: Mapping[str, Any], shape: Any, segment: str, config_path: str) -> Any:
    """What stands at ``segment`` when the recipe says nothing and something is set below it."""
    if shape is _STAGE_TRAINING or get_origin(shape) is dict:
        inner = _child_shape(shape, segment)
        if inner not in _NODE_TYPES or shape is _STAGE_TRAINING:
            return {}
        raise LimbeckError(
            f"{join_path(config_path, segment)} does not exist; {_format_available(segment, container, config_path)}"
        )
    if _allowed_keys(shape) is None:
        full_path, available = join_path(config_path, segment), _format_available(segment, container, config_path)
        raise LimbeckError(
            f"{full_path} is not in the recipe, so give it whole: {full_path}={{use: NAME, …}}; {available}"
        )
    field = shape.model_fields[segment]
    if field.is_required() and _child_shape(shape, segment) in _NODE_TYPES:
        raise LimbeckError(
            f"{join_path(config_path, segment)} is missing: set {join_path(config_path, segment)}.use first"
        )
    default = None if field.is_required() else to_plain(field.get_default(call_default_factory=True))
    return {} if default is None else default


def _format_available(segment: str, names: Any, config_path: str) -> str:
    return f"{config_path or 'the recipe'} has: {suggest_names(segment, map(str, names))}"


def _allowed_keys(shape: Any) -> list[str] | None:
    """The keys that ``shape`` can have; ``None`` where any is possible."""
    if shape is _STAGE_TRAINING:
        return list(TrainingNode.model_fields)
    if isinstance(shape, type) and issubclass(shape, BaseModel) and shape not in _NODE_TYPES:
        return list(shape.model_fields)
    return None


def _child_shape(shape: Any, segment: str) -> Any:
    if shape is _STAGE_TRAINING:
        return dict[str, Any] if segment in ("optimizer", "scheduler") else None
    if shape in _NODE_TYPES or shape is _NODE_SETTINGS or shape is None:
        return _NODE_SETTINGS
    if get_origin(shape) is dict:
        return _strip_optional(get_args(shape)[1])
    if get_origin(shape) is tuple:
        return _strip_optional(get_args(shape)[0])
    if shape is Stage and segment == "training":
        return _STAGE_TRAINING
    field = getattr(shape, "model_fields", {}).get(segment)
    return None if field is None else _strip_optional(field.annotation)


def _strip_optional(annotation: Any) -> Any:
    """Of ``X | None`` the X."""
    members = [member for member in get_args(annotation) if member is not type(None)]
    is_optional = (
        len(members) < len(get_args(annotation)) and len(members) == 1 and get_origin(annotation) not in (dict, tuple)
    )
    return members[0] if is_optional else annotation


def _deep_copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _deep_copy(item) for key, item in value.items()}
    return [_deep_copy(item) for item in value] if isinstance(value, list) else value
