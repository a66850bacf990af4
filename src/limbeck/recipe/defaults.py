"""A node as plain data with every setting it has, also those that nobody wrote: what ``limbeck recipe show`` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from limbeck.recipe import registry as aliases
from limbeck.recipe.resolved_node import ResolvedNode
from limbeck.recipe.type_hints import make_type_adapter

__all__ = ["KIND_BY_HINT", "collect_settings"]

KIND_BY_HINT: Final = {
    "Schedule": "schedule",
    "Temperature": "temperature",
    "Transform": "transform",
    "Augmentation": "augmentation",
}
"""The kind of node that a parameter of this type wants."""


def collect_settings(
    parameters: Mapping[str, Parameter], hints: Mapping[str, Any], values: Mapping[str, Any], deferred: Container[str]
) -> dict[str, Any]:
    """``values`` and the defaults of the others, as plain data in the order of the signature; not what comes later."""
    plain: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if name in deferred or (name not in values and parameter.default is parameter.empty):
            continue
        try:
            plain[name] = _serialize(
                values[name] if name in values else _normalize_default(parameter.default, hints.get(name, Any))
            )
        except _NotSerializableError:
            # A default such as a function or a tensor: it has no form in YAML, and holds when it is left out.
            continue
    return plain | {name: _serialize(value) for name, value in values.items() if name not in parameters}


class _NotSerializableError(Exception):
    """A value that has no form in YAML."""


def _normalize_default(default: Any, hint: Any) -> Any:
    """A default as it would come back from YAML: 0 for a float is 0.0."""
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
    kind = KIND_BY_HINT.get(type(value).__name__)
    if kind is not None and dataclasses.is_dataclass(value) and type(value).__name__ in aliases.list_names(kind):
        settings = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"use": type(value).__name__, **{name: _serialize(item) for name, item in settings.items()}}
    raise _NotSerializableError
