"""Type hints of parameters as pydantic validates them: strict for plain values, ``isinstance`` for objects.

A class without a form in YAML, such as a tensor or a schedule, is checked by ``isinstance``; a nested node passes for
the object that it builds.
"""

from __future__ import annotations

import inspect
import types
from collections import abc
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import (
    Annotated,
    Any,
    Final,
    ForwardRef,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from pydantic import BeforeValidator, Strict, TypeAdapter
from pydantic.errors import PydanticUserError

from limbeck.recipe.resolved_node import ResolvedNode
from limbeck.recipe.validation import (
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
_LIST_TYPES: Final = (list, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection)
_MAPPING_TYPES: Final = (dict, abc.Mapping, abc.MutableMapping)
_SET_TYPES: Final = (set, frozenset, abc.Set)


def get_hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The type hint of each parameter of ``target``, and of ``return``; a hint that cannot be evaluated is absent."""
    function: Any = target
    if inspect.isclass(target):
        function = target.__init__ if target.__init__ is not object.__init__ else target.__new__
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:
        # One name that only type checkers import must not drop the other hints.
        return {
            name: hint for name in getattr(function, "__annotations__", {}) for hint in _parameter_hint(function, name)
        }


def make_type_adapter(hint: Any) -> TypeAdapter[Any]:
    """A strict validator of this hint; it accepts any value where pydantic does not support the hint."""
    try:
        return TypeAdapter(_adapter_hint(hint))
    except (PydanticUserError, TypeError):
        return TypeAdapter(Any)


def _adapter_hint(hint: Any) -> Any:
    """``hint`` for pydantic's ``TypeAdapter``."""
    hint = _unwrap_hint(hint)
    if _is_scalar(hint):
        return _SCALARS[hint][0]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return Annotated[(_adapter_hint(args[0]), *args[1:])]
    if origin in (Union, types.UnionType):
        # Where text is allowed, '2024' in quotes is text.
        number = Annotated[float, Strict()] if str in args else Number
        return Union[tuple(number if arg is float else _adapter_hint(arg) for arg in args)]  # noqa: UP007
    if origin is Literal or hint is Any:
        return hint
    base = origin or hint
    if base in _LIST_TYPES:
        return list[_adapter_hint(args[0]) if args else Any]  # type: ignore[misc]
    if base is frozenset:
        return frozenset[_adapter_hint(args[0]) if args else Any]  # type: ignore[misc]
    if base in _SET_TYPES:
        return set[_adapter_hint(args[0]) if args else Any]  # type: ignore[misc]
    if base is tuple:
        return tuple[tuple(arg if arg is ... else _adapter_hint(arg) for arg in args) or (Any, ...)]  # type: ignore[misc]
    if base in _MAPPING_TYPES or is_typeddict(base):
        return dict[tuple(map(_adapter_hint, args)) if len(args) == 2 else (Any, Any)]  # type: ignore[misc]
    if inspect.isclass(base) and issubclass(base, Enum):
        return base
    return Annotated[Any, BeforeValidator(_instance_validator(base))]


def object_types(hint: Any) -> list[Any]:
    """The classes in ``hint`` whose objects only a node can build: of ``float | Schedule`` the second."""
    bases = [get_origin(member) or member for member in _union_members(hint)]
    return [
        base
        for base in bases
        if base not in (*_SCALARS, *_LIST_TYPES, *_MAPPING_TYPES, *_SET_TYPES, tuple, Literal, Any)
        and callable(base)
        and not (inspect.isclass(base) and issubclass(base, Enum))
        and not is_typeddict(base)
    ]


def accepts_only_objects(hint: Any) -> bool:
    """Whether only objects (or null) are allowed, so that text can only be the name of a node."""
    members = [member for member in _union_members(hint) if member is not NoneType]
    return bool(members) and len(object_types(hint)) == len(members)


def child_hint(hint: Any, key: int | str) -> Any:
    """The hint of the item at ``key`` of a list or mapping of this hint."""
    for member in _union_members(hint):
        origin, args = get_origin(member), get_args(member)
        if isinstance(key, int) and origin is tuple and args:
            return args[0] if args[-1] is ... else args[key] if key < len(args) else Any
        if isinstance(key, int) and origin in (*_LIST_TYPES, *_SET_TYPES) and args:
            return args[0]
        if isinstance(key, str) and origin in _MAPPING_TYPES and len(args) == 2:
            return args[1]
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
    origin, args = get_origin(hint), get_args(hint)
    base = origin or hint
    if base is Literal:
        return f"one of {', '.join(map(format_value, args))}"
    if base is tuple and args and args[-1] is not ...:
        return f"a list of {len(args)}{_plural_noun(args[0])}"
    if base is tuple or base in _LIST_TYPES or base in _SET_TYPES:
        elements = _plural_noun(args[0]) if args else ""
        return f"a list of{elements}" if elements else "a list"
    if base in _MAPPING_TYPES or is_typeddict(base):
        return "a mapping"
    if inspect.isclass(base) and issubclass(base, Enum):
        return f"one of {', '.join(format_value(member.value) for member in base)}"
    return f"a {getattr(base, '__name__', base)} (a node with `use`)"


def _plural_noun(hint: Any) -> str:
    scalars = [member for member in _union_members(hint) if _is_scalar(member)]
    return f" {_SCALARS[scalars[0]][2]}" if scalars else ""


def _union_members(hint: Any) -> list[Any]:
    hint = NoneType if hint is None else _unwrap_hint(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _union_members(args[0])
    if origin in (Union, types.UnionType):
        return [member for arg in args for member in _union_members(arg)]
    return [hint]


def _unwrap_hint(hint: Any) -> Any:
    """``hint`` without ``NewType`` and ``type`` names; ``Any`` where it is an unresolved name."""
    while (inner := getattr(hint, "__supertype__", getattr(hint, "__value__", None))) is not None:
        hint = inner
    return Any if isinstance(hint, TypeVar | ForwardRef | str) or hint is inspect.Parameter.empty else hint


def _is_scalar(hint: Any) -> bool:
    return isinstance(hint, type) and hint in _SCALARS


def _instance_validator(expected: Any) -> Callable[[Any], Any]:
    def validate(value: Any) -> Any:
        if isinstance(value, ResolvedNode) or _is_instance(value, expected):
            return value
        raise_validation_error(f"{format_value(value)} is not {_describe_member(expected)}")

    return validate


def _is_instance(value: Any, expected: Any) -> bool:
    try:
        return isinstance(value, expected)
    except TypeError:  # a protocol that is not runtime-checkable; no YAML value is an instance
        return False


def _parameter_hint(function: Any, name: str) -> Sequence[Any]:
    placeholder = types.SimpleNamespace(__annotations__={name: function.__annotations__[name]})
    try:
        hints: dict[str, Any] = get_type_hints(
            placeholder, globalns=getattr(function, "__globals__", {}), include_extras=True
        )
    except Exception:
        return ()
    return list(hints.values())
