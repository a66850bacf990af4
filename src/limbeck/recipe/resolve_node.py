"""One node of a recipe, ``{use: small_cnn, width: 8}``, checked against the signature of what it builds.

The signature is the only list of a node's settings: a new parameter is a new key, with its type and its default.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
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
from limbeck.recipe.validation import describe_validation_error, format_value, join_path, unknown_setting_message

__all__ = ["resolve_node"]

_CONSTRAINTS: Final = {"gt", "ge", "lt", "le", "min_length", "max_length", "multiple_of"}
_MISPLACED_KEYS: Final = {
    "weight": "a weight belongs to a loss of an objective",
    "weights": "weights are read for teachers only",
    "backend": "a backend is a teacher's",
    "interval": "`interval` belongs to the training's scheduler",
}
_LENGTH_SETTINGS: Final = ("T_max", "total_steps")
_ALTERNATIVE_LENGTH_SETTINGS: Final = ("epochs", "steps_per_epoch")


def resolve_node(
    node: str | Mapping[str, Any],
    kind: str | Sequence[str],
    *,
    plugins: Iterable[str] = (),
    provided: Mapping[str, Any] | None = None,
    config_path: str | None = None,
) -> ResolvedNode:
    """Look up what ``node`` names and check its settings, without building anything.

    Args:
        node: a mapping with ``use``, or the name only.
        kind: one of :data:`limbeck.recipe.registry.NODE_KINDS`, or several in the order of lookup.
        plugins: packages that ``use`` may import from.
        provided: values for parameters that the recipe leaves out: ``classes``, ``channels``, ``seed``, ``steps``, and
            ``temperature`` of losses that use the task's. :data:`~limbeck.recipe.resolved_node.DEFERRED` stands for a
            value that is known when the node is built.
        config_path: dotted path of the node, for errors; ``None``: its kind.

    >>> node = resolve_node({"use": "linear", "start": 1}, "schedule", config_path="stages.0.objective.kd.weight")
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: stages.0.objective.kd.weight: linear needs 'end', a number
    >>> resolve_node({"use": "linear", "start": 1, "end": 0}, "schedule").build()
    Linear(start=1.0, end=0.0)
    """
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    config_path = kinds[0] if config_path is None else config_path
    use, settings = _split_node(node, config_path)
    node_kind, target = registry.resolve_target(use, kinds, plugins=plugins, config_path=config_path)
    kind_info = registry.NODE_KINDS[node_kind]
    signature = _Signature.from_callable(target, kind_info.positional_args, use, config_path)
    context = _Context(node_kind, tuple(plugins), provided or {})
    for name in settings:
        is_reserved = not isinstance(name, str) or name in kind_info.positional_args
        if name not in signature.settings and (is_reserved or not signature.accepts_kwargs):
            hint = f"; {_MISPLACED_KEYS[name]}" if name in _MISPLACED_KEYS else ""
            raise LimbeckError(f"{config_path}: {unknown_setting_message(use, name, signature.settings)}{hint}")
    values = {
        name: _validate_value(item, signature.hints.get(name, Any), join_path(config_path, name), context)
        for name, item in settings.items()
    }
    injected = _injected_sources(kind_info, target, signature, settings, context.provided)
    deferred = {name: source for name, source in injected.items() if context.provided[source] is DEFERRED}
    values |= {name: context.provided[source] for name, source in injected.items() if name not in deferred}
    for name, parameter in signature.settings.items():
        if parameter.default is parameter.empty and name not in values and name not in deferred:
            raise LimbeckError(f"{config_path}: {use} needs {name!r}, {describe_hint(signature.hints.get(name, Any))}")
    return ResolvedNode(
        config_path=config_path, use=use, kind=node_kind, target=target, settings=values, deferred=deferred,
        config={"use": use, **_plain_settings(signature, values, deferred)},
    )  # fmt: skip


class _Context(NamedTuple):
    """What a nested node shares with its parent."""

    kind: str
    plugins: tuple[str, ...]
    provided: Mapping[str, Any]


class _Signature(NamedTuple):
    """The settings that a callable takes."""

    settings: dict[str, inspect.Parameter]
    hints: dict[str, Any]
    accepts_kwargs: bool

    @classmethod
    def from_callable(
        cls, target: Callable[..., Any], positional_args: Sequence[str], use: str, config_path: str
    ) -> _Signature:
        try:
            parameters = inspect.signature(target).parameters
        except (ValueError, TypeError) as error:
            raise LimbeckError(f"{config_path}: {use} has no signature that Python can read: wrap it in one") from error
        settings = {
            name: parameter
            for name, parameter in parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and name not in positional_args
        }
        accepts_kwargs = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        return cls(settings, get_hints(target), accepts_kwargs)


def _split_node(node: Any, config_path: str) -> tuple[str, dict[str, Any]]:
    if isinstance(node, str):
        return node, {}
    if not isinstance(node, Mapping) or not isinstance(node.get("use"), str):
        raise LimbeckError(f"{config_path}: {format_value(node)} is not a node: write {{use: NAME}}")
    return node["use"], {name: value for name, value in node.items() if name != "use"}


def _injected_sources(
    kind: registry.NodeKind, target: Any, signature: _Signature, settings: Mapping[str, Any], provided: Container[str]
) -> dict[str, str]:
    """The parameters that limbeck fills in, each with the name of its value in ``provided``."""
    # OneCycleLR takes its length in one of two ways, and total_steps would override the other; null is no length.
    has_alternative_length = any(settings.get(name) is not None for name in _ALTERNATIVE_LENGTH_SETTINGS)
    explicit = {name for name, value in settings.items() if value is not None or name not in _LENGTH_SETTINGS}
    return {
        name: source
        for name, source in kind.injected_args.items()
        if name in signature.settings
        and source in provided
        and name not in explicit
        and not (source == "steps" and has_alternative_length)
        and (source != "temperature" or getattr(target, "uses_task_temperature", False))
    }


def _validate_value(value: Any, hint: Any, config_path: str, context: _Context) -> Any:
    """``value`` converted to the type of the parameter, with nested nodes resolved."""
    resolved_value = _resolve_nested(value, hint, config_path, context)
    try:
        return make_type_adapter(hint).validate_python(resolved_value)
    except ValidationError as error:
        raise LimbeckError(_validation_message(value, hint, config_path, error)) from None


def _resolve_nested(value: Any, hint: Any, config_path: str, context: _Context) -> Any:
    is_bare_name = isinstance(value, str) and accepts_only_objects(hint)
    if is_bare_name or (isinstance(value, Mapping) and isinstance(value.get("use"), str)):
        return _resolve_nested_node(value, hint, config_path, context)
    if isinstance(value, list):
        return [
            _resolve_nested(item, child_hint(hint, i), join_path(config_path, i), context)
            for i, item in enumerate(value)
        ]
    if isinstance(value, Mapping):
        return {
            key: _resolve_nested(item, child_hint(hint, str(key)), join_path(config_path, key), context)
            for key, item in value.items()
        }
    return value


def _resolve_nested_node(value: Any, hint: Any, config_path: str, context: _Context) -> ResolvedNode:
    expected = object_types(hint)
    if not expected and hint is not Any:
        raise LimbeckError(
            f"{config_path}: {format_value(value)} is a node, and the value must be {describe_hint(hint)}"
        )
    kinds_by_type = registry.kinds_by_type()
    kinds = [kinds_by_type[hint_type] for hint_type in expected if hint_type in kinds_by_type]
    kinds = kinds or [context.kind, *(kind for kind in registry.NODE_KINDS if kind != context.kind)]
    node = resolve_node(value, kinds, plugins=context.plugins, provided=context.provided, config_path=config_path)
    built_type = node.target if inspect.isclass(node.target) else get_hints(node.target).get("return")
    if expected and inspect.isclass(built_type) and not any(_is_subclass(built_type, item) for item in expected):
        raise LimbeckError(
            f"{config_path}: {node.use} gives a {built_type.__name__}, and the value must be {describe_hint(hint)}"
        )
    return node


def _is_subclass(built_type: type, expected: Any) -> bool:
    try:
        return issubclass(built_type, expected)
    except TypeError:  # a protocol with attributes, or not a class: only an instance can be checked
        return True


def _validation_message(value: Any, hint: Any, config_path: str, error: ValidationError) -> str:
    """The message for the innermost value that contains all errors."""
    records = error.errors(include_url=False)
    depth = 0
    while all(len(record["loc"]) > depth for record in records):
        steps = {record["loc"][depth] for record in records}
        step = next(iter(steps))
        is_nested = isinstance(value, list) and isinstance(step, int) and step < len(value)
        if len(steps) > 1 or not (is_nested or (isinstance(value, Mapping) and step in value)):
            break
        value, hint, config_path, depth = value[step], child_hint(hint, step), join_path(config_path, step), depth + 1
    if len(records) == 1 and _CONSTRAINTS & (records[0].get("ctx") or {}).keys():
        return f"{config_path}: {describe_validation_error(records[0])}"
    return f"{config_path}: {format_value(value)} is not {describe_hint(hint)}"


class _NotSerializableError(Exception):
    """A value without a form in YAML."""


def _plain_settings(signature: _Signature, values: Mapping[str, Any], deferred: Container[str]) -> dict[str, Any]:
    """``values`` and the remaining defaults as plain data, in the order of the signature.

    A default without a form in YAML, such as a function, is left out.
    """
    plain: dict[str, Any] = {}
    for name, parameter in signature.settings.items():
        if name in deferred or (name not in values and parameter.default is parameter.empty):
            continue
        try:
            value = (
                values[name]
                if name in values
                else _normalize_default(parameter.default, signature.hints.get(name, Any))
            )
            plain[name] = _serialize(value)
        except _NotSerializableError:
            continue
    return plain | {name: _serialize(value) for name, value in values.items() if name not in signature.settings}


def _normalize_default(default: Any, hint: Any) -> Any:
    """A default as YAML reads it back: 0 for a float is 0.0."""
    try:
        return make_type_adapter(hint).validate_python(default)
    except ValidationError:
        return default


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
    raise _NotSerializableError
