"""Plain values, strictly: what YAML says is what is meant. Shared by the recipe's own keys and by `use:` nodes.

An integer is a number, but true is not, and neither is 'abc'; ``'1e-3'`` in quotes still is one where only a number can
stand. https://docs.pydantic.dev/latest/concepts/strict_mode/
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, Strict
from pydantic_core import PydanticCustomError

from limbeck.recipe.messages import shown, unknown_setting

__all__ = ["File", "Flag", "Integer", "Number", "Text", "complaint", "known", "refuse", "sentence"]

_NUMERIC: Final = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def sentence(text: str) -> PydanticCustomError:
    """``text`` as an error that pydantic carries to its place."""
    return PydanticCustomError("sentence", "{text}", {"text": text})


def refuse(text: str) -> Any:
    """Raise ``text`` as such an error."""
    raise sentence(text)


def known(value: Any, model: type[BaseModel], noun: str) -> Any:
    """``value``, if it has only keys that ``model`` has; a sentence that names the right one for any other."""
    if isinstance(value, Mapping):
        for key in value:
            if key not in model.model_fields:
                refuse(unknown_setting(noun, key, model.model_fields))
    return value


def _number(value: Any) -> Any:
    if isinstance(value, str) and _NUMERIC.fullmatch(value):
        return float(value)
    if isinstance(value, float) and math.isnan(value):
        raise sentence("nan is not a number")
    return value


def _file(value: Any) -> Any:
    if not isinstance(value, str | Path):
        raise sentence(f"{shown(value)} is not a path")
    return Path(value)


Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict(), BeforeValidator(_number)]
Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
File = Annotated[Path, BeforeValidator(_file)]


def complaint(error: Mapping[str, Any]) -> str:
    """What is wrong, from one of pydantic's error records, in words of ours.

    >>> complaint({"type": "int_type", "input": "abc", "msg": "", "ctx": {}})
    "'abc' is not an integer"
    """
    kind, value, context = error["type"], error["input"], error.get("ctx") or {}
    if kind == "sentence":
        return str(context["text"])
    if kind == "literal_error":
        return f"{shown(value)} is not one of {context['expected'].replace(' or ', ', ')}"
    if kind == "string_type":
        return f"{shown(value)} is not text{'' if isinstance(value, dict | list) else ': put it in quotes'}"
    for start, what in _NOUNS:
        if kind.startswith(start):
            return f"{shown(value)} is not {what}"
    limits = [f"{words} {context[name]:g}" for name, words in _LIMITS if name in context]
    return f"{shown(value)} is not {' and '.join(limits)}" if limits else f"{shown(value)}: {error['msg']}"


_NOUNS = (
    ("int_", "an integer"),
    ("float_", "a number"),
    ("finite_", "a finite number"),
    ("bool_", "true or false"),
    ("list_", "a list"),
    ("tuple_", "a list"),
    ("dict_", "a mapping"),
    ("mapping_", "a mapping"),
    ("model_", "a mapping"),
    ("none_", "null"),
)
_LIMITS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))
