"""Strict pydantic fields, and one-sentence messages for the values that they refuse.

An integer is a number, true and ``'abc'`` are not; ``'1e-3'`` in quotes is one where only a number is allowed.
https://docs.pydantic.dev/latest/concepts/strict_mode/
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from limbeck.core.errors import LimbeckError

__all__ = [
    "Number",
    "PathValue",
    "Settings",
    "StrictBool",
    "StrictInt",
    "StrictStr",
    "describe_validation_error",
    "format_value",
    "join_path",
    "parse_number",
    "raise_validation_error",
    "translate_errors",
    "unknown_setting_message",
    "validate",
]

ModelT = TypeVar("ModelT", bound=BaseModel)

_MAX_LENGTH: Final = 60
_NUMBER_PATTERN: Final = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_TYPE_NAMES: Final = {
    "int": "an integer", "float": "a number", "finite": "a finite number", "bool": "true or false", "list": "a list",
    "tuple": "a list", "dict": "a mapping", "mapping": "a mapping", "model": "a mapping", "none": "null",
}  # fmt: skip
_BOUND_WORDS: Final = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


class Settings(BaseModel):
    """A section of settings; frozen, and an unknown key is an error that names the closest one.

    Attributes:
        display_name: name of the section in an error.
        omit_if_default: fields that are written only where they differ from their default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    display_name: ClassVar[str]
    omit_if_default: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_keys(cls, value: Any) -> Any:
        for key in value if isinstance(value, Mapping) else ():
            if key not in cls.model_fields:
                raise_validation_error(unknown_setting_message(cls.display_name, key, cls.model_fields))
        return value


def validate(model: type[ModelT], data: Any, config_path: str = "") -> ModelT:
    """``data`` as ``model``; a mistake is a ``LimbeckError`` with the dotted path of the setting."""
    if not isinstance(data, Mapping):
        raise LimbeckError(
            f"{config_path or 'a recipe'}: {format_value(data)} is not a mapping of settings, such as `seed: 0`"
        )
    with translate_errors(config_path):
        return model.model_validate(data)


@contextmanager
def translate_errors(config_path: str = "") -> Iterator[None]:
    """Raise pydantic's first error as a ``LimbeckError``: one sentence with the dotted path of the setting."""
    try:
        yield
    except ValidationError as error:
        record = error.errors(include_url=False)[0]
    else:
        return
    keys = [step for step in record["loc"] if step != "[key]"]
    if record["type"] == "missing":
        raise LimbeckError(f"{join_path(config_path, *keys[:-1]) or 'recipe'}: {keys[-1]!r} is missing")
    raise LimbeckError(f"{join_path(config_path, *keys) or 'recipe'}: {describe_validation_error(record)}")


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
    if type_name := _TYPE_NAMES.get(kind.partition("_")[0]):
        return f"{format_value(value)} is not {type_name}"
    bounds = [f"{words} {_format_bound(context[name])}" for name, words in _BOUND_WORDS.items() if name in context]
    return f"{format_value(value)}{f' is not {bounds[0]}' if bounds else ': ' + error['msg']}"


def _format_bound(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def raise_validation_error(text: str) -> NoReturn:
    """Raise ``text`` as an error to which pydantic adds the path."""
    raise PydanticCustomError("sentence", "{text}", {"text": text})


def unknown_setting_message(display_name: str, key: object, allowed: Iterable[str]) -> str:
    """The error for a key that does not exist, with the closest one that does.

    >>> unknown_setting_message("small_cnn", "widht", ["width", "depth"])
    "small_cnn has no setting 'widht'; did you mean 'width'? (settings: width, depth)"
    """
    names = list(allowed)
    close = get_close_matches(str(key), names, n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else ""
    return f"{display_name} has no setting {format_value(key)}{suggestion} (settings: {', '.join(names) or 'none'})"


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
        items = (
            f"{key}: {item if isinstance(item, str) and item.isidentifier() else _format_full(item)}"
            for key, item in value.items()
        )
        return "{" + ", ".join(items) + "}"
    return "[" + ", ".join(map(_format_full, value)) + "]" if isinstance(value, list | tuple) else repr(value)


def _parse_integer(value: Any) -> Any:
    """A numpy integer as an int."""
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, numbers.Integral) else value


def parse_number(value: Any) -> Any:
    """A numpy number, or text such as ``1e-3``, as a number; any other value as it is."""
    if isinstance(value, int):
        return value
    if isinstance(value, numbers.Real):
        value = float(value)  # numpy numbers too
    if isinstance(value, str) and _NUMBER_PATTERN.fullmatch(value):
        return float(value)
    if isinstance(value, float) and math.isnan(value):
        raise_validation_error("nan is not a number")
    return value


def _parse_path(value: Any) -> Path:
    return Path(value) if isinstance(value, str | Path) else raise_validation_error(f"{format_value(value)} is no path")


StrictInt = Annotated[int, Strict(), BeforeValidator(_parse_integer)]
Number = Annotated[float, Strict(), BeforeValidator(parse_number)]
StrictStr = Annotated[str, Strict()]
StrictBool = Annotated[bool, Strict()]
PathValue = Annotated[Path, BeforeValidator(_parse_path)]
