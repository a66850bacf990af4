"""Reads ``record.json``: what is wrong with one is a single sentence, and the page is never made of half a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from limbeck.core.errors import LimbeckError
from limbeck.report.migrate import OLDER, migrated
from limbeck.report.record import SCHEMA, Record

__all__ = ["SCHEMA", "complaint", "load", "parse", "read"]


def read(path: Path) -> Record:
    """The record at ``path``, or one sentence on what is wrong with it."""
    return parse(load(path), where=str(path))


def load(path: Path) -> Any:
    """What stands in the file at ``path``, as plain data."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LimbeckError(
            f"{path.parent} holds no {path.name}: a report is made from a finished run, so give the folder of one, "
            "or run `limbeck distill` first"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise LimbeckError(f"{path} could not be read ({error}): give the folder of a finished run") from None
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise LimbeckError(
            f"{path} is not JSON ({error}): it was cut off or edited, so run `limbeck distill` again"
        ) from None


def parse(record: object, *, where: str = "the record") -> Record:
    """``record`` as objects, also one of an older schema; anything of a wrong shape is a sentence with the place."""
    if not isinstance(record, Mapping):
        raise LimbeckError(f"{where} holds {type(record).__name__}, and a record of a run is a mapping")
    if record.get("schema") not in (*OLDER, SCHEMA):
        known = ", ".join(map(str, (*OLDER, SCHEMA)))
        raise LimbeckError(
            f"{where} has the schema {record.get('schema')!r}, and this limbeck reads {known}: "
            "make the report with the version of limbeck that wrote the run"
        )
    try:
        parsed = Record.model_validate(migrated(record))
    except ValidationError as error:
        raise LimbeckError(
            f"{where} is not a record of a run: {complaint(error)}; run `limbeck distill` again"
        ) from None
    # A cell of a study holds one arm, and that may be a control.
    if parsed.kind == "run" and not any(model.role == "distilled" for model in parsed.models.values()):
        raise LimbeckError(f"{where} has no model with the role 'distilled': the run did not finish, so resume it")
    return parsed


def complaint(error: ValidationError) -> str:
    """The first thing that is wrong, with its place."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(step) for step in first["loc"]) or "the record"
    if first["type"] == "sentence":
        return f"{place}: {first['msg']}"
    return f"{place} ({first['msg'].lower()}, found {_brief(first['input'])})"


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
