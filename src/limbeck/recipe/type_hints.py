"""A parameter's type hint, as pydantic is to read it: strict on plain values, and open where a node builds an object.

pydantic would try to describe every class; a recipe cannot write a tensor or a schedule, so a class that has no form in
YAML is asked for by ``isinstance``, and a nested node stands for the object it will build.
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

from limbeck.recipe.messages import shown
from limbeck.recipe.resolved_node import Checked
from limbeck.recipe.scalars import File, Flag, Integer, Number, Text, sentence

__all__ = ["below", "classes", "hints_of", "only_objects", "reader", "words"]

_PLAIN: Final[dict[Any, tuple[Any, str, str]]] = {
    int: (Integer, "an integer", "integers"),
    float: (Number, "a number", "numbers"),
    bool: (Flag, "true or false", "flags"),
    str: (Text, "text", "texts"),
    Path: (File, "a path", "paths"),
    NoneType: (None, "null", "nulls"),
}
_LISTS: Final = (list, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection)
_MAPPINGS: Final = (dict, abc.Mapping, abc.MutableMapping)
_SETS: Final = (set, frozenset, abc.Set)


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """The type of each parameter of ``target``, and ``return`` where it says so; what cannot be known is absent."""
    function: Any = target
    if inspect.isclass(target):
        function = target.__init__ if target.__init__ is not object.__init__ else target.__new__
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:
        # One name that only type checkers import must not cost the hints of the others.
        return {name: hint for name in getattr(function, "__annotations__", {}) for hint in _one(function, name)}


def reader(hint: Any) -> TypeAdapter[Any]:
    """What reads a value of this hint, strictly; anything goes where the hint says nothing that Python knows."""
    try:
        return TypeAdapter(_loosened(hint))
    except (PydanticUserError, TypeError):
        return TypeAdapter(Any)


def _loosened(hint: Any) -> Any:
    """``hint`` for pydantic's ``TypeAdapter``."""
    hint = _bare(hint)
    if _is_plain(hint):
        return _PLAIN[hint][0]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return Annotated[(_loosened(args[0]), *args[1:])]
    if origin in (Union, types.UnionType):
        # Where text may stand, '2024' in quotes is a folder's name and no number.
        number = Annotated[float, Strict()] if str in args else Number
        return Union[tuple(number if each is float else _loosened(each) for each in args)]  # noqa: UP007
    if origin is Literal or hint is Any:
        return hint
    base = origin or hint
    if base in _LISTS:
        return list[_loosened(args[0]) if args else Any]  # type: ignore[misc]
    if base is frozenset:
        return frozenset[_loosened(args[0]) if args else Any]  # type: ignore[misc]
    if base in _SETS:
        return set[_loosened(args[0]) if args else Any]  # type: ignore[misc]
    if base is tuple:
        return tuple[tuple(each if each is ... else _loosened(each) for each in args) or (Any, ...)]  # type: ignore[misc]
    if base in _MAPPINGS or is_typeddict(base):
        return dict[tuple(map(_loosened, args)) if len(args) == 2 else (Any, Any)]  # type: ignore[misc]
    if inspect.isclass(base) and issubclass(base, Enum):
        return base
    return Annotated[Any, BeforeValidator(_object(base))]


def classes(hint: Any) -> list[Any]:
    """The classes that only a node can give an object of: of ``float | Schedule`` the second."""
    found = []
    for each in _alternatives(hint):
        base = get_origin(each) or each
        containers = (*_LISTS, *_MAPPINGS, *_SETS, tuple, Literal)
        if _is_plain(each) or base in containers or each is Any or not (inspect.isclass(base) or callable(base)):
            continue
        if not (inspect.isclass(base) and issubclass(base, Enum)) and not is_typeddict(base):
            found.append(base)
    return found


def only_objects(hint: Any) -> bool:
    """Whether nothing but an object may stand here (or null), so that text can only be a node's name."""
    plain = [each for each in _alternatives(hint) if each is not NoneType]
    return bool(plain) and len(classes(hint)) == len(plain)


def below(hint: Any, step: int | str) -> Any:
    """The hint of what stands at ``step`` in a list or mapping of this hint."""
    for each in _alternatives(hint):
        origin, args = get_origin(each), get_args(each)
        if isinstance(step, int) and origin is tuple and args:
            return args[0] if args[-1] is ... else args[step] if step < len(args) else Any
        if isinstance(step, int) and origin in (*_LISTS, *_SETS) and args:
            return args[0]
        if isinstance(step, str) and origin in _MAPPINGS and len(args) == 2:
            return args[1]
    return Any


def words(hint: Any) -> str:
    """What may stand here, for an error.

    >>> words(float | None), words(tuple[float, float]), words(Literal["cos", "linear"])
    ('a number or null', 'a list of 2 numbers', "one of 'cos', 'linear'")
    """
    parts = _alternatives(hint)
    # A recipe cannot write a tensor: say so only where nothing else may stand.
    plain = [each for each in parts if not classes(each) or getattr(each, "__module__", "").startswith("limbeck")]
    return " or ".join(dict.fromkeys(_word(each) for each in plain or parts))


def _word(hint: Any) -> str:
    if _is_plain(hint):
        return _PLAIN[hint][1]
    origin, args = get_origin(hint), get_args(hint)
    base = origin or hint
    if base is Literal:
        return f"one of {', '.join(map(shown, args))}"
    if base is tuple and args and args[-1] is not ...:
        return f"a list of {len(args)}{_plural(args[0])}"
    if base is tuple or base in _LISTS or base in _SETS:
        many = _plural(args[0]) if args else ""
        return f"a list of{many}" if many else "a list"
    if base in _MAPPINGS or is_typeddict(base):
        return "a mapping"
    if inspect.isclass(base) and issubclass(base, Enum):
        return f"one of {', '.join(shown(each.value) for each in base)}"
    return f"a {getattr(base, '__name__', base)} (a node with `use`)"


def _plural(hint: Any) -> str:
    known = [each for each in _alternatives(hint) if _is_plain(each)]
    return f" {_PLAIN[known[0]][2]}" if known else ""


def _alternatives(hint: Any) -> list[Any]:
    hint = NoneType if hint is None else _bare(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _alternatives(args[0])
    if origin in (Union, types.UnionType):
        return [each for arg in args for each in _alternatives(arg)]
    return [hint]


def _bare(hint: Any) -> Any:
    """``hint`` without the names that types are given; ``Any`` where it is only a name that was not found."""
    while (meant := getattr(hint, "__supertype__", getattr(hint, "__value__", None))) is not None:
        hint = meant
    return Any if isinstance(hint, TypeVar | ForwardRef | str) or hint is inspect.Parameter.empty else hint


def _is_plain(hint: Any) -> bool:
    return isinstance(hint, type) and hint in _PLAIN


def _object(wanted: Any) -> Callable[[Any], Any]:
    def take(value: Any) -> Any:
        if isinstance(value, Checked) or _is(value, wanted):
            return value
        raise sentence(f"{shown(value)} is not {_word(wanted)}")

    return take


def _is(value: Any, wanted: Any) -> bool:
    try:
        return isinstance(value, wanted)
    except TypeError:  # a protocol that cannot be asked; what comes from YAML is none
        return False


def _one(function: Any, name: str) -> Sequence[Any]:
    stand_in = types.SimpleNamespace(__annotations__={name: function.__annotations__[name]})
    try:
        found: dict[str, Any] = get_type_hints(
            stand_in, globalns=getattr(function, "__globals__", {}), include_extras=True
        )
    except Exception:
        return ()
    return list(found.values())
