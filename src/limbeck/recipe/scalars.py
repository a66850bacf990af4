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

from limbeck.recipe.messages import format_value, unknown_setting_message

__all__ = [
    "Number",
    "PathValue",
    "StrictBool",
    "StrictInt",
    "StrictStr",
    "describe_validation_error",
    "raise_validation_error",
    "reject_unknown_keys",
    "validation_error",
]

_NUMBER_PATTERN: Final = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def validation_error(text: str) -> PydanticCustomError:
    """``text`` as an error that pydantic carries to its place."""
    return PydanticCustomError("sentence", "{text}", {"text": text})


def raise_validation_error(text: str) -> Any:
    """Raise ``text`` as such an error."""
    raise validation_error(text)


def reject_unknown_keys(value: Any, model: type[BaseModel], noun: str) -> Any:
    """``value``, if it has only keys that ``model`` has; a sentence that names the right one for any other."""
    if isinstance(value, Mapping):
        for key in value:
            if key not in model.model_fields:
                raise_validation_error(unknown_setting_message(noun, key, model.model_fields))
    return value


def _parse_number(value: Any) -> Any:
    if isinstance(value, str) and _NUMBER_PATTERN.fullmatch(value):
        return float(value)
    if isinstance(value, float) and math.isnan(value):
        raise validation_error("nan is not a number")
    return value


def _parse_path(value: Any) -> Any:
    if not isinstance(value, str | Path):
        raise validation_error(f"{format_value(value)} is not a path")
    return Path(value)


StrictInt = Annotated[int, Strict()]
Number = Annotated[float, Strict(), BeforeValidator(_parse_number)]
StrictStr = Annotated[str, Strict()]
StrictBool = Annotated[bool, Strict()]
PathValue = Annotated[Path, BeforeValidator(_parse_path)]


def describe_validation_error(error: Mapping[str, Any]) -> str:
    """What is wrong, from one of pydantic's error records, in words of ours.

    >>> describe_validation_error({"type": "int_type", "input": "abc", "msg": "", "ctx": {}})
    "'abc' is not an integer"
    """
    kind, value, context = error["type"], error["input"], error.get("ctx") or {}
    if kind == "sentence":
        return str(context["text"])
    if kind == "literal_error":
        return f"{format_value(value)} is not one of {context['expected'].replace(' or ', ', ')}"
    if kind == "string_type":
        return f"{format_value(value)} is not text{'' if isinstance(value, dict | list) else ': put it in quotes'}"
    for start, noun in _TYPE_NOUNS:
        if kind.startswith(start):
            return f"{format_value(value)} is not {noun}"
    limits = [f"{words} {context[name]:g}" for name, words in _LIMIT_WORDS if name in context]
    return (
        f"{format_value(value)} is not {' and '.join(limits)}" if limits else f"{format_value(value)}: {error['msg']}"
    )


_TYPE_NOUNS = (
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
_LIMIT_WORDS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))
