"""What things in a recipe may be called: names become folders, parts of a dotted path, and columns of a table."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

from limbeck.recipe.messages import format_value
from limbeck.recipe.registry import plugin_error
from limbeck.recipe.scalars import StrictStr, validation_error

__all__ = ["FileName", "Name", "Plugin", "TeacherName"]

_NAME_PATTERN: Final = re.compile(r"\w[\w-]{0,99}")
_RESERVED_NAMES: Final = (
    "baseline", "baseline_equal_time", "baseline_label_smoothing", "no_assistants", "distilled", "student_only",
    "equal_time", "label_smoothing",
)  # fmt: skip
_FILE_NAME_PATTERN: Final = re.compile(r"\w[\w.-]{0,99}")


def _validate_name(value: str) -> str:
    if not _NAME_PATTERN.fullmatch(value):
        raise validation_error(f"{format_value(value)} is not a name: it takes letters, digits, _ and -")
    return value


def _validate_file_name(value: str) -> str:
    if not _FILE_NAME_PATTERN.fullmatch(value):
        raise validation_error(
            f"{format_value(value)} is not a name that can be a folder: it takes letters, digits, _, - and ."
        )
    return value


def _validate_teacher_name(value: str) -> str:
    if value == "student":
        raise validation_error(
            "a teacher cannot be named student, since feature layers and losses mean the student by it"
        )
    if value in _RESERVED_NAMES:
        raise validation_error(
            f"a teacher cannot be named {value}, which is one of the students of a run: choose another name"
        )
    return _validate_name(value)


def _validate_plugin(value: str) -> str:
    if error := plugin_error(value):
        raise validation_error(error)
    return value


Name = Annotated[StrictStr, AfterValidator(_validate_name)]
FileName = Annotated[StrictStr, AfterValidator(_validate_file_name)]
TeacherName = Annotated[StrictStr, AfterValidator(_validate_teacher_name)]
Plugin = Annotated[StrictStr, AfterValidator(_validate_plugin)]
