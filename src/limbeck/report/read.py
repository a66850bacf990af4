"""Reads ``record.json``: what is wrong with one is a single sentence, and the page is never made of half a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.report.migrate import OLDER_SCHEMAS, migrate_record
from limbeck.report.record import SCHEMA, Record

__all__ = ["SCHEMA", "format_validation_error", "load_json", "parse_record", "read_record"]


def read_record(path: Path) -> Record:
    """The record at ``path``, or one sentence on what is wrong with it."""
    return parse_record(load_json(path), source=str(path))


def load_json(path: Path) -> Any:
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


def parse_record(record: object, *, source: str = "the record") -> Record:
    """``record`` as objects, also one of an older schema; anything of a wrong shape is a sentence with the place."""
    if not isinstance(record, Mapping):
        raise LimbeckError(f"{source} holds {type(record).__name__}, and a record of a run is a mapping")
    if record.get("schema") not in (*OLDER_SCHEMAS, SCHEMA):
        schemas = ", ".join(map(str, (*OLDER_SCHEMAS, SCHEMA)))
        raise LimbeckError(
            f"{source} has the schema {record.get('schema')!r}, and this limbeck reads {schemas}: "
            "make the report with the version of limbeck that wrote the run"
        )
    try:
        result = Record.model_validate(migrate_record(record))
    except ValidationError as error:
        raise LimbeckError(
            f"{source} is not a record of a run: {format_validation_error(error)}; run `limbeck distill` again"
        ) from None
    # A trial of a study holds one variant, and that may be a baseline.
    if result.kind == "run" and not any(model.role == Role.DISTILLED for model in result.models.values()):
        raise LimbeckError(f"{source} has no model with the role 'distilled': the run did not finish, so resume it")
    return result


def format_validation_error(error: ValidationError) -> str:
    """The first thing that is wrong, with its place."""
    first = error.errors(include_url=False)[0]
    key_path = ".".join(str(step) for step in first["loc"]) or "the record"
    if first["type"] == "sentence":
        return f"{key_path}: {first['msg']}"
    return f"{key_path} ({first['msg'].lower()}, found {_shorten_repr(first['input'])})"


def _shorten_repr(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
