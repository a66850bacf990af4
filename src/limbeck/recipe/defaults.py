"""A node as plain data with every setting it has, also those that nobody wrote: what ``limbeck recipe show`` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from limbeck.recipe import registry as aliases
from limbeck.recipe.resolved_node import Checked
from limbeck.recipe.type_hints import reader

__all__ = ["BY_HINT", "whole"]

BY_HINT: Final = {"Schedule": "schedule", "Temperature": "temperature", "Transform": "transform", "Views": "views"}
"""The kind of node that a parameter of this type wants."""


def whole(
    parameters: Mapping[str, Parameter], hints: Mapping[str, Any], values: Mapping[str, Any], later: Container[str]
) -> dict[str, Any]:
    """``values`` and the defaults of the others, as plain data in the order of the signature; not what comes later."""
    plain: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if name in later or (name not in values and parameter.default is parameter.empty):
            continue
        try:
            plain[name] = _plain(values[name] if name in values else _settled(parameter.default, hints.get(name, Any)))
        except _NotPlainError:
            # A default such as a function or a tensor: it has no form in YAML, and holds when it is left out.
            continue
    return plain | {name: _plain(value) for name, value in values.items() if name not in parameters}


class _NotPlainError(Exception):
    """A value that has no form in YAML."""


def _settled(default: Any, hint: Any) -> Any:
    """A default as it would come back from YAML: 0 for a float is 0.0."""
    try:
        return reader(hint).validate_python(default)
    except ValidationError:
        return default


def _plain(value: Any) -> Any:
    if isinstance(value, Checked):
        return dict(value.resolved)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=repr)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    kind = BY_HINT.get(type(value).__name__)
    if kind is not None and dataclasses.is_dataclass(value) and type(value).__name__ in aliases.names(kind):
        settings = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"use": type(value).__name__, **{name: _plain(item) for name, item in settings.items()}}
    raise _NotPlainError
