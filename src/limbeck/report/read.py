"""Reads ``record.json``: what is wrong with one is a single sentence, and the page is never made of half a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from limbeck.core.errors import LimbeckError
from limbeck.report.record import Record

__all__ = ["SCHEMA", "parse", "read"]

SCHEMA = 1


def read(path: Path) -> Record:
    """The record at ``path``, or one sentence on what is wrong with it."""
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
        return parse(json.loads(text), where=str(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise LimbeckError(
            f"{path} is not JSON ({error}): it was cut off or edited, so run `limbeck distill` again"
        ) from None


def parse(record: object, *, where: str = "the record") -> Record:
    """``record`` as objects; anything of a wrong shape is one sentence that names the place."""
    if not isinstance(record, Mapping):
        raise LimbeckError(f"{where} holds {type(record).__name__}, and a record of a run is a mapping")
    if record.get("schema") != SCHEMA:
        raise LimbeckError(
            f"{where} has the schema {record.get('schema')!r}, and this limbeck reads {SCHEMA}: "
            "make the report with the version of limbeck that wrote the run"
        )
    try:
        parsed = Record.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise LimbeckError(
            f"{where} is not a record of a run: {place} ({first['msg'].lower()}, found {_brief(first['input'])}); "
            "run `limbeck distill` again"
        ) from None
    # A cell of a study holds one arm, and that may be a control.
    if parsed.kind == "run" and not any(model.role == "distilled" for model in parsed.models.values()):
        raise LimbeckError(f"{where} has no model with the role 'distilled': the run did not finish, so resume it")
    return parsed


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
