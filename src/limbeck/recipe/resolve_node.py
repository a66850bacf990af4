"""One node of a recipe, ``{use: small_cnn, width: 8}``, checked against the signature of what it names.

The callable is the only list of its settings: a parameter added to it is a key of the recipe from then on, with the
type and the default it has there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from limbeck.core.errors import LimbeckError
from limbeck.recipe import registry
from limbeck.recipe.defaults import KIND_BY_HINT, collect_settings
from limbeck.recipe.messages import format_value, join_path, unknown_setting_message
from limbeck.recipe.resolved_node import DEFERRED, ResolvedNode
from limbeck.recipe.scalars import describe_validation_error
from limbeck.recipe.type_hints import (
    accepts_only_objects,
    child_hint,
    describe_hint,
    get_hints,
    make_type_adapter,
    object_types,
)

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
    """Find what ``node`` names and compare its settings with the signature, without building anything.

    Arguments:
        node: a mapping with ``use``, or the name alone.
        kind: one of :data:`limbeck.recipe.registry.NODE_KINDS`, or several in the order to look in.
        plugins: packages that ``use`` may import from.
        provided: what limbeck fills in where the recipe says nothing: ``classes``, ``channels``, ``seed``, ``steps``,
            and of response losses ``temperature``, by the task.
            :data:`~limbeck.recipe.resolved_node.DEFERRED` stands for what will be known when it is built.
        config_path: where the node stands in the recipe, for errors; the kind where none is given.

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
    signature = _Signature.from_callable(target, registry.NODE_KINDS[node_kind].positional_args, use, config_path)
    context = _Context(node_kind, tuple(plugins), provided or {})
    _reject_unknown_settings(settings, signature, use, config_path, node_kind)
    values = {
        name: _validate_value(item, signature.hints.get(name, Any), join_path(config_path, name), context)
        for name, item in settings.items()
    }
    injected = _inject_settings(registry.NODE_KINDS[node_kind], target, signature, settings, context.provided)
    deferred = {name: source for name, (source, value) in injected.items() if value is DEFERRED}
    values |= {name: value for name, (_, value) in injected.items() if value is not DEFERRED}
    for name, parameter in signature.settings.items():
        if parameter.default is parameter.empty and name not in values and name not in deferred:
            raise LimbeckError(f"{config_path}: {use} needs {name!r}, {describe_hint(signature.hints.get(name, Any))}")
    return ResolvedNode(
        config_path=config_path, use=use, kind=node_kind, target=target, settings=values, deferred=deferred,
        config={"use": use, **collect_settings(signature.settings, signature.hints, values, deferred)},
    )  # fmt: skip


class _Context(NamedTuple):
    """What a nested node shares with the node around it."""

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
            raise LimbeckError(
                f"{config_path}: {use} has no signature that Python can read, so it cannot be used"
            ) from error
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


def _reject_unknown_settings(
    settings: Mapping[str, Any], signature: _Signature, use: str, config_path: str, kind: str
) -> None:
    for name in settings:
        is_reserved = not isinstance(name, str) or name in registry.NODE_KINDS[kind].positional_args
        if name not in signature.settings and (is_reserved or not signature.accepts_kwargs):
            hint = f"; {_MISPLACED_KEYS[name]}" if name in _MISPLACED_KEYS else ""
            raise LimbeckError(f"{config_path}: {unknown_setting_message(use, name, signature.settings)}{hint}")


def _inject_settings(
    kind: registry.NodeKind,
    target: Callable[..., Any],
    signature: _Signature,
    settings: Mapping[str, Any],
    provided: Mapping[str, Any],
) -> dict[str, tuple[str, Any]]:
    """What limbeck fills in: by parameter, the name it has for it and the value."""
    # OneCycleLR takes its length in one of two ways, and total_steps would silently win over the other. A length of
    # null is none, as in its own signature.
    has_alternative_length = any(settings.get(name) is not None for name in _ALTERNATIVE_LENGTH_SETTINGS)
    explicit = {name for name, value in settings.items() if value is not None or name not in _LENGTH_SETTINGS}
    return {
        name: (source, provided[source])
        for name, source in kind.injected_args.items()
        if name in signature.settings
        and source in provided
        and name not in explicit
        and not (source == "steps" and has_alternative_length)
        if source != "temperature" or getattr(target, "uses_task_temperature", False)
    }


def _validate_value(value: Any, hint: Any, config_path: str, context: _Context) -> Any:
    """``value`` as the parameter wants it, with ``ResolvedNode`` where a node stood."""
    resolved_value = _resolve_nodes(value, hint, config_path, context)
    try:
        return make_type_adapter(hint).validate_python(resolved_value)
    except ValidationError as error:
        raise LimbeckError(_validation_message(value, hint, config_path, error)) from None


def _resolve_nodes(value: Any, hint: Any, config_path: str, context: _Context) -> Any:
    expected = object_types(hint)
    is_bare_name = isinstance(value, str) and accepts_only_objects(hint)
    if is_bare_name or (isinstance(value, Mapping) and isinstance(value.get("use"), str)):
        return _resolve_nested_node(value, hint, expected, config_path, context)
    if isinstance(value, list):
        return [
            _resolve_nodes(item, child_hint(hint, i), join_path(config_path, i), context)
            for i, item in enumerate(value)
        ]
    if isinstance(value, Mapping):
        return {
            key: _resolve_nodes(item, child_hint(hint, str(key)), join_path(config_path, key), context)
            for key, item in value.items()
        }
    return value


def _resolve_nested_node(
    value: Any, hint: Any, expected: list[Any], config_path: str, context: _Context
) -> ResolvedNode:
    if not expected and hint is not Any:
        raise LimbeckError(
            f"{config_path}: {format_value(value)} is a node, and what stands here is {describe_hint(hint)}"
        )
    hinted_kinds = [
        KIND_BY_HINT[hint_type.__name__] for hint_type in expected if getattr(hint_type, "__name__", "") in KIND_BY_HINT
    ]
    kinds = hinted_kinds or [context.kind, *(kind for kind in registry.NODE_KINDS if kind != context.kind)]
    resolved_node = resolve_node(
        value, kinds, plugins=context.plugins, provided=context.provided, config_path=config_path
    )
    built_type = (
        resolved_node.target if inspect.isclass(resolved_node.target) else get_hints(resolved_node.target).get("return")
    )
    if (
        expected
        and inspect.isclass(built_type)
        and not any(_is_subclass(built_type, hint_type) for hint_type in expected)
    ):
        raise LimbeckError(
            f"{config_path}: {resolved_node.use} gives a {built_type.__name__}, and what stands here is {describe_hint(hint)}"
        )
    return resolved_node


def _is_subclass(built_type: type, expected: Any) -> bool:
    try:
        return issubclass(built_type, expected)
    except TypeError:  # a protocol with attributes, or no class at all: only the object itself could tell
        return True


def _validation_message(value: Any, hint: Any, config_path: str, error: ValidationError) -> str:
    """The sentence for the innermost value that all of pydantic's records are about."""
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
