"""Checks one node of a recipe, ``{use: small_cnn, width: 8}``, against the signature of the object it builds.

The signature defines the settings: each parameter is a key, with its type hint and its default.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from limbeck.core.errors import LimbeckError
from limbeck.recipe import registry
from limbeck.recipe.resolved_node import DEFERRED, ResolvedNode
from limbeck.recipe.type_hints import (
    accepts_only_objects,
    child_hint,
    describe_hint,
    get_hints,
    make_type_adapter,
    object_types,
)
from limbeck.utils.model_names import expand_model_name
from limbeck.utils.validation import describe_validation_error, format_value, join_path, unknown_setting_message

__all__ = ["resolve_node"]

_CONSTRAINTS: Final = {"gt", "ge", "lt", "le", "min_length", "max_length", "multiple_of"}
_MISPLACED_KEYS: Final = {
    "weight": "`weight` is a setting of the losses of an objective",
    "weights": "`weights` is a setting of teachers only",
    "backend": "`backend` is a setting of teachers only",
    "interval": "`interval` is a setting of the training's scheduler",
}
_NOT_FACTS: Final = ("seed", "steps", "temperature")
_STEP_LENGTH_SETTINGS: Final = ("T_max", "total_steps")
_EPOCH_LENGTH_SETTINGS: Final = ("epochs", "steps_per_epoch")


class _Context(NamedTuple):
    """What a nested node shares with its parent."""

    kind: str
    plugins: tuple[str, ...]
    provided: Mapping[str, Any]


def resolve_node(
    node: str | Mapping[str, Any],
    kind: str | Sequence[str],
    *,
    plugins: Iterable[str] = (),
    provided: Mapping[str, Any] | None = None,
    config_path: str | None = None,
    expected_types: Sequence[Any] = (),
) -> ResolvedNode:
    """Look up the object that ``node`` names and check its settings, without building it.

    Args:
        node: a mapping with ``use``, or the name only.
        kind: one of :data:`limbeck.recipe.registry.NODE_KINDS`, or several in the order of lookup.
        plugins: packages from which ``use`` may import.
        provided: values injected into parameters that the recipe does not set: the facts of the data (``classes``,
            ``channels``, …), ``seed``, ``steps``, and ``temperature`` of losses that use the task's default.
            :data:`~limbeck.recipe.resolved_node.DEFERRED` marks a value that is known only when the node is built.
        config_path: dotted path of the node, for errors; ``None``: its kind.
        expected_types: what a plugin must build; empty: what a node of ``kind`` builds.

    >>> node = resolve_node({"use": "linear", "start": 1}, "schedule", config_path="stages.0.objective.kd.weight")
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: stages.0.objective.kd.weight: linear needs 'end', a number
    >>> resolve_node({"use": "linear", "start": 1, "end": 0}, "schedule").build()
    linear(start=1.0, end=0.0)
    """
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    config_path = kinds[0] if config_path is None else config_path
    if isinstance(node, str):
        node = {"use": node}
    if not isinstance(node, Mapping) or not isinstance(use := node.get("use"), str):
        raise LimbeckError(f"{config_path}: {format_value(node)} is not a node: write {{use: NAME}}")
    if "model" in kinds and (node := expand_model_name(node))["use"] != use:
        use = node["use"]
    settings = {name: value for name, value in node.items() if name != "use"}
    node_kind, target = registry.resolve_target(
        use, kinds, plugins=plugins, config_path=config_path, expected_types=expected_types
    )
    kind_info = registry.NODE_KINDS[node_kind]
    positional_args = kind_info.positional_args
    builder = target
    if node_kind == "loss" and inspect.isfunction(target):
        from limbeck.distiller.function_loss import LossFactory, loss_arguments

        positional_args = loss_arguments(target)
        builder = LossFactory.from_function(target) if positional_args else target
    parameters, accepts_kwargs = _read_signature(target, positional_args, use, config_path)
    hints = get_hints(target)
    context = _Context(node_kind, tuple(plugins), provided or {})
    for name in settings:
        is_reserved = not isinstance(name, str) or name in positional_args
        if name not in parameters and (is_reserved or not accepts_kwargs):
            hint = f"; {_MISPLACED_KEYS[name]}" if name in _MISPLACED_KEYS else ""
            raise LimbeckError(f"{config_path}: {unknown_setting_message(use, name, parameters)}{hint}")
    values = {
        name: _parse_value(item, hints.get(name, Any), join_path(config_path, name), context)
        for name, item in settings.items()
    }
    injected = _injected_sources(kind_info, target, parameters, settings, context.provided)
    deferred = {name: source for name, source in injected.items() if context.provided[source] is DEFERRED}
    values |= {name: context.provided[source] for name, source in injected.items() if name not in deferred}
    config: dict[str, Any] = {"use": use}
    for name, parameter in parameters.items():
        hint = hints.get(name, Any)
        if name in values:
            config |= _serialize_setting(name, values[name])
        elif name in deferred:
            continue
        elif parameter.default is parameter.empty:
            raise LimbeckError(f"{config_path}: {use} needs {name!r}, {describe_hint(hint)}")
        else:
            config |= _serialize_setting(name, _normalize_default(parameter.default, hint))
    config |= {name: _serialize(value) for name, value in values.items() if name not in parameters}
    return ResolvedNode(
        config_path=config_path, use=use, kind=node_kind, target=builder, settings=values, deferred=deferred,
        config=config,
    )  # fmt: skip


def _read_signature(
    target: Any, positional_args: Sequence[str], use: str, config_path: str
) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters that are settings, and whether ``**kwargs`` are accepted."""
    try:
        parameters = inspect.signature(target).parameters
    except (ValueError, TypeError) as error:
        raise LimbeckError(f"{config_path}: {use} has no readable signature: wrap it in a Python function") from error
    settings = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in positional_args
    }
    return settings, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _injected_sources(
    kind: registry.NodeKind, target: Any, parameters: Container[str], settings: Mapping[str, Any],
    provided: Collection[str],
) -> dict[str, str]:  # fmt: skip
    """The parameters that limbeck injects, each with the key of its value in ``provided``."""
    # The length of OneCycleLR is total_steps, or epochs and steps_per_epoch; total_steps overrides the others.
    has_length_in_epochs = any(settings.get(name) is not None for name in _EPOCH_LENGTH_SETTINGS)
    explicit = {name for name, value in settings.items() if value is not None or name not in _STEP_LENGTH_SETTINGS}
    sources = dict(kind.injected_args)
    if kind.takes_facts:
        sources |= {name: name for name in provided if name not in _NOT_FACTS}
    return {
        name: source
        for name, source in sources.items()
        if name in parameters
        and source in provided
        and name not in explicit
        and not (source == "steps" and has_length_in_epochs)
        and (source != "temperature" or getattr(target, "uses_task_temperature", False))
    }


def _parse_value(value: Any, hint: Any, config_path: str, context: _Context) -> Any:
    """``value`` with nested nodes resolved, converted to the type of the parameter."""
    is_bare_name = isinstance(value, str) and accepts_only_objects(hint)
    parsed = value
    if is_bare_name or (isinstance(value, Mapping) and isinstance(value.get("use"), str)):
        return _resolve_nested(value, hint, config_path, context)
    if isinstance(value, list):
        parsed = [
            _parse_value(item, child_hint(hint, i), join_path(config_path, i), context) for i, item in enumerate(value)
        ]
    if isinstance(value, Mapping):
        parsed = {
            key: _parse_value(item, child_hint(hint, str(key)), join_path(config_path, key), context)
            for key, item in value.items()
        }
    try:
        return make_type_adapter(hint).validate_python(parsed)
    except ValidationError as error:
        details = error.errors(include_url=False)
        if len(details) == 1 and _CONSTRAINTS & (details[0].get("ctx") or {}).keys():
            raise LimbeckError(f"{config_path}: {describe_validation_error(details[0])}") from None
        raise LimbeckError(f"{config_path}: {format_value(value)} is not {describe_hint(hint)}") from None


def _resolve_nested(value: Any, hint: Any, config_path: str, context: _Context) -> ResolvedNode:
    expected = object_types(hint)
    if not expected and hint is not Any:
        raise LimbeckError(
            f"{config_path}: {format_value(value)} is a node, but the value must be {describe_hint(hint)}"
        )
    kinds_by_type = registry.kinds_by_type()
    kinds = [kinds_by_type[hint_type] for hint_type in expected if hint_type in kinds_by_type]
    kinds = kinds or [context.kind, *(kind for kind in registry.NODE_KINDS if kind != context.kind)]
    node = resolve_node(
        value, kinds, plugins=context.plugins, provided=context.provided, config_path=config_path,
        expected_types=expected,
    )  # fmt: skip
    built_type = node.target if inspect.isclass(node.target) else get_hints(node.target).get("return")
    if expected and inspect.isclass(built_type) and not any(_is_subclass(built_type, item) for item in expected):
        raise LimbeckError(
            f"{config_path}: {node.use} builds a {built_type.__name__}, but the value must be {describe_hint(hint)}"
        )
    return node


def _is_subclass(built_type: type, expected: Any) -> bool:
    try:
        return issubclass(built_type, expected)
    except TypeError:  # a protocol with attributes, or not a class: only an instance can be checked
        return True


def _normalize_default(default: Any, hint: Any) -> Any:
    """The default converted to the type of the parameter: 0 becomes 0.0 for a float."""
    try:
        return make_type_adapter(hint).validate_python(default)
    except ValidationError:
        return default


def _serialize_setting(name: str, value: Any) -> dict[str, Any]:
    """The setting as plain data; empty if the value cannot be written as YAML, such as a function."""
    try:
        return {name: _serialize(value)}
    except TypeError:
        return {}


def _serialize(value: Any) -> Any:
    if isinstance(value, ResolvedNode):
        return dict(value.config)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_serialize(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_serialize(item) for item in value), key=repr)
    if isinstance(value, Mapping):
        return {key: _serialize(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and type(value) in registry.kinds_by_type():
        settings = {field.name: _serialize(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"use": type(value).__name__, **settings}
    raise TypeError(f"{value!r} cannot be written as YAML")
