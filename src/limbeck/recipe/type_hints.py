"""Type hints of parameters as pydantic validates them: strict for plain values, ``isinstance`` for objects.

A class without a form in YAML, such as a tensor or a schedule, is checked by ``isinstance``; a nested node passes for
the object that it builds.
"""

from __future__ import annotations

import inspect
from collections import abc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import is_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Final, ForwardRef, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, Strict, TypeAdapter
from pydantic.errors import PydanticUserError

from limbeck.recipe.resolved_node import ResolvedNode
from limbeck.utils.validation import (
    Number,
    PathValue,
    StrictBool,
    StrictInt,
    StrictStr,
    format_value,
    raise_validation_error,
)

__all__ = ["accepts_only_objects", "child_hint", "describe_hint", "get_hints", "make_type_adapter", "object_types"]

_SCALARS: Final[dict[Any, tuple[Any, str, str]]] = {
    int: (StrictInt, "an integer", "integers"),
    float: (Number, "a number", "numbers"),
    bool: (StrictBool, "true or false", "flags"),
    str: (StrictStr, "text", "texts"),
    Path: (PathValue, "a path", "paths"),
    NoneType: (None, "null", "nulls"),
}
_CONTAINERS: Final[dict[Any, Any]] = {
    **dict.fromkeys((list, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection), list),
    **dict.fromkeys((dict, abc.Mapping, abc.MutableMapping), dict),
    set: set, abc.Set: set, frozenset: frozenset, tuple: tuple,
}  # fmt: skip
"""The container that a value of each type is converted to."""


def get_hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The type hint of each parameter of ``target``, and of ``return``; a hint that cannot be evaluated is absent."""
    try:
        return dict(_cached_hints(target))
    except TypeError:  # a callable without a hash
        return _read_hints(target)


@lru_cache(maxsize=1024)
def _cached_hints(target: Callable[..., Any]) -> dict[str, Any]:
    return _read_hints(target)


def _read_hints(target: Callable[..., Any]) -> dict[str, Any]:
    function: Any = target
    if inspect.isclass(target):
        function = target.__init__ if target.__init__ is not object.__init__ else target.__new__
    try:
        if inspect.isclass(target) and is_dataclass(target):  # a field is evaluated in the module of its class
            hints = get_type_hints(target, include_extras=True)
            return {name: hints[name] for name in inspect.signature(target).parameters if name in hints}
        return get_type_hints(function, include_extras=True)
    except Exception:
        # One name that only type checkers import must not drop the other hints.
        hints = {}
        for name, annotation in getattr(function, "__annotations__", {}).items():
            with suppress(Exception):
                parameter = SimpleNamespace(__annotations__={name: annotation})
                hints |= get_type_hints(parameter, getattr(function, "__globals__", {}), include_extras=True)
        return hints


def make_type_adapter(hint: Any) -> TypeAdapter[Any]:
    """A strict validator of this hint; it accepts any value where pydantic does not support the hint."""
    try:
        hash(hint)
    except TypeError:
        return _build_type_adapter(hint)
    return _cached_type_adapter(hint, repr(hint))  # `int | str` equals `str | int`, and their order counts


def _build_type_adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(_strict_hint(hint))
    except (PydanticUserError, TypeError):
        return TypeAdapter(Any)


@lru_cache(maxsize=1024)
def _cached_type_adapter(hint: Any, _text: str) -> TypeAdapter[Any]:
    return _build_type_adapter(hint)


def _strict_hint(hint: Any) -> Any:
    """``hint`` for pydantic's ``TypeAdapter``."""
    hint = _unwrap_hint(hint)
    origin, args = get_origin(hint), get_args(hint)
    if _is_scalar(hint):
        return _SCALARS[hint][0]
    if origin is Annotated:
        return Annotated[(_strict_hint(args[0]), *args[1:])]
    if origin in (Union, UnionType):
        # Where text is allowed, '2024' in quotes is text.
        number = Annotated[float, Strict()] if str in args else Number
        return Union[tuple(number if arg is float else _strict_hint(arg) for arg in args)]  # noqa: UP007
    if origin is Literal or hint is Any or _is_enum(hint):
        return hint
    if (container := _CONTAINERS.get(origin or hint)) is not None:
        return container[tuple(arg if arg is ... else _strict_hint(arg) for arg in args)] if args else container
    return Annotated[Any, BeforeValidator(_instance_validator(origin or hint))]


def object_types(hint: Any) -> list[Any]:
    """The classes in ``hint`` whose objects only a node can build: of ``float | Schedule`` the second."""
    bases = [get_origin(member) or member for member in _union_members(hint)]
    plain = (*_SCALARS, *_CONTAINERS, Literal, Any)
    return [base for base in bases if base not in plain and callable(base) and not _is_enum(base)]


def accepts_only_objects(hint: Any) -> bool:
    """Whether only objects (or null) are allowed, so that text can only be the name of a node."""
    members = [member for member in _union_members(hint) if member is not NoneType]
    return bool(members) and len(object_types(hint)) == len(members)


def child_hint(hint: Any, key: int | str) -> Any:
    """The hint of the item at ``key`` of a list or mapping of this hint."""
    for member in _union_members(hint):
        container, args = _CONTAINERS.get(get_origin(member)), get_args(member)
        if container is None or isinstance(key, str) != (container is dict):
            continue
        if container is tuple and args[-1] is not ...:
            return args[key] if isinstance(key, int) and key < len(args) else Any
        return args[1] if container is dict else args[0]
    return Any


def describe_hint(hint: Any) -> str:
    """The allowed values, for an error.

    >>> describe_hint(float | None), describe_hint(tuple[float, float]), describe_hint(Literal["cos", "linear"])
    ('a number or null', 'a list of 2 numbers', "one of 'cos', 'linear'")
    """
    members = _union_members(hint)
    # A recipe cannot write a tensor: name it only where nothing else is allowed.
    writable = [
        member
        for member in members
        if not object_types(member) or getattr(member, "__module__", "").startswith("limbeck")
    ]
    return " or ".join(dict.fromkeys(_describe_member(member) for member in writable or members))


def _describe_member(hint: Any) -> str:
    if _is_scalar(hint):
        return _SCALARS[hint][1]
    base, args = get_origin(hint) or hint, get_args(hint)
    if base is Literal or _is_enum(base):
        return f"one of {', '.join(map(format_value, args or [member.value for member in base]))}"
    container = _CONTAINERS.get(base)
    if container is None:
        return f"a {getattr(base, '__name__', base)} (a node with `use`)"
    if container is dict:
        return "a mapping"
    scalars = [_SCALARS[item][2] for item in _union_members(args[0]) if _is_scalar(item)] if args else []
    count = [str(len(args))] if container is tuple and args and args[-1] is not ... else []
    return " ".join(["a list", *(["of"] if count or scalars else []), *count, *scalars[:1]])


def _union_members(hint: Any) -> list[Any]:
    hint = NoneType if hint is None else _unwrap_hint(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _union_members(args[0])
    return [member for arg in args for member in _union_members(arg)] if origin in (Union, UnionType) else [hint]


def _unwrap_hint(hint: Any) -> Any:
    """``hint`` without ``NewType`` and ``type`` names; ``Any`` where it is an unresolved name."""
    while (inner := getattr(hint, "__supertype__", getattr(hint, "__value__", None))) is not None:
        hint = inner
    return Any if isinstance(hint, TypeVar | ForwardRef | str) or hint is inspect.Parameter.empty else hint


def _is_scalar(hint: Any) -> bool:
    return isinstance(hint, type) and hint in _SCALARS


def _is_enum(hint: Any) -> bool:
    return inspect.isclass(hint) and issubclass(hint, Enum)


def _instance_validator(expected: Any) -> Callable[[Any], Any]:
    def validate_instance(value: Any) -> Any:
        # A protocol that is not runtime-checkable has no instances in YAML.
        with suppress(TypeError):
            if isinstance(value, (ResolvedNode, expected)):
                return value
        raise_validation_error(f"{format_value(value)} is not {_describe_member(expected)}")

    return validate_instance
