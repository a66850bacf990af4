"""The names that a user chooses in a recipe: of a run, a stage, a teacher, a loss, a plugin."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Final

from pydantic import AfterValidator

from limbeck.recipe.registry import plugin_error
from limbeck.utils.validation import StrictStr, format_value, raise_validation_error

__all__ = ["FileName", "Name", "Plugin", "TeacherName"]

_RESERVED_NAMES: Final = (
    "baseline", "baseline_equal_time", "baseline_label_smoothing", "no_assistants", "distilled", "student_only",
    "equal_time", "label_smoothing",
)  # fmt: skip


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


Name = Annotated[StrictStr, AfterValidator(_match_name(r"\w[\w-]{0,99}", "a name: it takes letters, digits, _ and -"))]
FileName = Annotated[
    StrictStr,
    AfterValidator(_match_name(r"\w[\w.-]{0,99}", "a name that can be a folder: it takes letters, digits, _, - and .")),
]
TeacherName = Annotated[Name, AfterValidator(_validate_teacher_name)]
Plugin = Annotated[StrictStr, AfterValidator(_validate_plugin)]
