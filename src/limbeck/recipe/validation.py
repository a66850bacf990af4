"""Strict scalars, names and error messages, shared by the keys of a recipe and the settings of its nodes.

An integer is a number, true and ``'abc'`` are not; ``'1e-3'`` in quotes is one where only a number is allowed.
https://docs.pydantic.dev/latest/concepts/strict_mode/
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

from pydantic import AfterValidator, BaseModel, BeforeValidator, Strict
from pydantic_core import PydanticCustomError

from limbeck.recipe.registry import plugin_error

__all__ = [
    "FileName",
    "Name",
    "Number",
    "PathValue",
    "Plugin",
    "StrictBool",
    "StrictInt",
    "StrictStr",
    "TeacherName",
    "describe_validation_error",
    "format_value",
    "join_path",
    "raise_validation_error",
    "reject_unknown_keys",
    "unknown_setting_message",
]

_MAX_LENGTH: Final = 60
_NUMBER_PATTERN: Final = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_RESERVED_NAMES: Final = (
    "baseline", "baseline_equal_time", "baseline_label_smoothing", "no_assistants", "distilled", "student_only",
    "equal_time", "label_smoothing",
)  # fmt: skip
_TYPE_NOUNS: Final = {
    "int": "an integer", "float": "a number", "finite": "a finite number", "bool": "true or false", "list": "a list",
    "tuple": "a list", "dict": "a mapping", "mapping": "a mapping", "model": "a mapping", "none": "null",
}  # fmt: skip
_BOUND_WORDS: Final = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def join_path(config_path: str, *keys: object) -> str:
    """``config_path`` and the keys below it, dotted.

    >>> join_path("stages", 0, "epochs"), join_path("", "student")
    ('stages.0.epochs', 'student')
    """
    return ".".join(str(key) for key in (config_path, *keys) if key != "")


def format_value(value: Any) -> str:
    """``value`` as it is written in YAML, cut to 60 characters.

    >>> format_value("abc"), format_value(True), format_value([None, 1.5]), format_value({"use": "mlp"})
    ("'abc'", 'true', '[null, 1.5]', '{use: mlp}')
    """
    text = _format_full(value)
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 1] + "…"


def _format_full(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        items = {
            key: item if isinstance(item, str) and item.isidentifier() else _format_full(item)
            for key, item in value.items()
        }
        return "{" + ", ".join(f"{key}: {item}" for key, item in items.items()) + "}"
    return "[" + ", ".join(map(_format_full, value)) + "]" if isinstance(value, list | tuple) else repr(value)


def unknown_setting_message(owner: str, key: object, allowed: Iterable[str]) -> str:
    """The error for a key that does not exist, with the closest one that does.

    >>> unknown_setting_message("small_cnn", "widht", ["width", "depth"])
    "small_cnn has no setting 'widht'; did you mean 'width'? (it takes: width, depth)"
    """
    names = list(allowed)
    close = get_close_matches(str(key), names, n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else ""
    return f"{owner} has no setting {format_value(key)}{suggestion} (it takes: {', '.join(names) or 'none'})"


def raise_validation_error(text: str) -> NoReturn:
    """Raise ``text`` as an error to which pydantic adds the path."""
    raise PydanticCustomError("sentence", "{text}", {"text": text})


def reject_unknown_keys(value: Any, model: type[BaseModel], noun: str) -> Any:
    """``value``, if all its keys are fields of ``model``."""
    for key in value if isinstance(value, Mapping) else ():
        if key not in model.model_fields:
            raise_validation_error(unknown_setting_message(noun, key, model.model_fields))
    return value


def describe_validation_error(error: Mapping[str, Any]) -> str:
    """The message for one of pydantic's error records.

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
    if noun := _TYPE_NOUNS.get(kind.partition("_")[0]):
        return f"{format_value(value)} is not {noun}"
    bounds = [f"{words} {context[name]:g}" for name, words in _BOUND_WORDS.items() if name in context]
    return f"{format_value(value)}{f' is not {bounds[0]}' if bounds else ': ' + error['msg']}"


def _parse_number(value: Any) -> Any:
    if isinstance(value, str) and _NUMBER_PATTERN.fullmatch(value):
        return float(value)
    if isinstance(value, float) and math.isnan(value):
        raise_validation_error("nan is not a number")
    return value


def _parse_path(value: Any) -> Path:
    return (
        Path(value) if isinstance(value, str | Path) else raise_validation_error(f"{format_value(value)} is not a path")
    )


def _match_name(pattern: str, rule: str) -> Callable[[str], str]:
    def validate_name(value: str) -> str:
        return value if re.fullmatch(pattern, value) else raise_validation_error(f"{format_value(value)} is not {rule}")

    return validate_name


def _validate_teacher_name(value: str) -> str:
    if value == "student":
        raise_validation_error("a teacher cannot be named student, which is the student's name in feature_layers")
    if value in _RESERVED_NAMES:
        raise_validation_error(
            f"a teacher cannot be named {value}, which is one of the students of a run: choose another name"
        )
    return value


def _validate_plugin(value: str) -> str:
    return raise_validation_error(error) if (error := plugin_error(value)) else value


StrictInt = Annotated[int, Strict()]
Number = Annotated[float, Strict(), BeforeValidator(_parse_number)]
StrictStr = Annotated[str, Strict()]
StrictBool = Annotated[bool, Strict()]
PathValue = Annotated[Path, BeforeValidator(_parse_path)]
Name = Annotated[StrictStr, AfterValidator(_match_name(r"\w[\w-]{0,99}", "a name: it takes letters, digits, _ and -"))]
FileName = Annotated[
    StrictStr,
    AfterValidator(_match_name(r"\w[\w.-]{0,99}", "a name that can be a folder: it takes letters, digits, _, - and .")),
]
TeacherName = Annotated[Name, AfterValidator(_validate_teacher_name)]
Plugin = Annotated[StrictStr, AfterValidator(_validate_plugin)]
