"""What things in a recipe may be called: names become folders, parts of a dotted path, and columns of a table."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

from limbeck.recipe.messages import shown
from limbeck.recipe.registry import refuse_plugin
from limbeck.recipe.scalars import Text, sentence

__all__ = ["FileName", "Name", "Plugin", "TeacherName"]

_NAME: Final = re.compile(r"\w[\w-]{0,99}")
_STUDENTS: Final = ("alone", "longer", "smoothed", "direct", "distilled")
_FILE_NAME: Final = re.compile(r"\w[\w.-]{0,99}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise sentence(f"{shown(value)} is not a name: it takes letters, digits, _ and -")
    return value


def _file_name(value: str) -> str:
    if not _FILE_NAME.fullmatch(value):
        raise sentence(f"{shown(value)} is not a name that can be a folder: it takes letters, digits, _, - and .")
    return value


def _teacher_name(value: str) -> str:
    if value == "student":
        raise sentence("a teacher cannot be named student, since taps and terms mean the student by it")
    if value in _STUDENTS:
        raise sentence(f"a teacher cannot be named {value}, which is one of the students of a run: choose another name")
    return _name(value)


def _plugin(value: str) -> str:
    if refusal := refuse_plugin(value):
        raise sentence(refusal)
    return value


Name = Annotated[Text, AfterValidator(_name)]
FileName = Annotated[Text, AfterValidator(_file_name)]
TeacherName = Annotated[Text, AfterValidator(_teacher_name)]
Plugin = Annotated[Text, AfterValidator(_plugin)]
