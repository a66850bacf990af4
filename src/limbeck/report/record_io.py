"""Reads, writes and checks ``record.json``: reading is lenient, writing strict and atomic."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.report.migrate import OLDER_SCHEMAS, migrate_record
from limbeck.report.record import METRIC_INFO, PRIMARY_METRIC, SCHEMA, SCHEMA_MINOR, WRITE_CONTEXT, Record
from limbeck.report.record_hash import add_hashes, integrity_error
from limbeck.utils.io import digest, write_atomically

__all__ = [
    "check_record",
    "integrity_warning",
    "load_json",
    "parse_record",
    "read_record",
    "render_json_schema",
    "validate_strict",
    "write_record",
]


def read_record(path: Path) -> Record:
    """The record at ``path``, also one of an older schema.

    Raises:
        LimbeckError: the file is missing, is not JSON, or is not the record of a finished run.
    """
    return parse_record(load_json(path), source=str(path))


def load_json(path: Path) -> Any:
    """The content of the JSON file at ``path``.

    Raises:
        LimbeckError: the file is missing, cannot be read, or is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LimbeckError(
            f"{path.parent} holds no {path.name}: a report needs a finished run, so give the folder of one, "
            "or run `limbeck distill` first"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise LimbeckError(f"{path} could not be read ({error}): give the folder of a finished run") from None
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise LimbeckError(
            f"{path} is not JSON ({error}): it was truncated or edited, so run `limbeck distill` again"
        ) from None


def parse_record(record: object, *, source: str = "the record") -> Record:
    """``record`` as typed objects, also one of an older schema.

    Raises:
        LimbeckError: it is not the record of a finished run.
    """
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
            f"{source} is not a record of a run: {_format_validation_error(error)}; run `limbeck distill` again"
        ) from None
    # A trial of a study holds one variant, which may be a baseline.
    if result.kind == "run" and not any(model.role == Role.DISTILLED for model in result.models.values()):
        raise LimbeckError(f"{source} has no model with the role 'distilled': the run did not finish, so resume it")
    return result


def write_record(run_dir: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``run_dir/record.json`` with its schema and its hashes; returns the content.

    ``metric_info`` and ``primary_metric`` are those of classification where ``record`` has none.

    Raises:
        LimbeckError: the record violates the schema, has an unknown key, or holds NaN.
    """
    head = {
        "schema": SCHEMA, "schema_minor": SCHEMA_MINOR, "metric_info": dict(METRIC_INFO),
        "primary_metric": PRIMARY_METRIC,
    }  # fmt: skip
    full_record = add_hashes({**head, **record})
    validate_strict(full_record)
    text = json.dumps(full_record, indent=1, allow_nan=False)
    write_atomically(run_dir / "record.json", lambda path: path.write_text(text, encoding="utf-8"))
    return full_record


def validate_strict(record: Mapping[str, Any]) -> None:
    """Check that a record may be written.

    Raises:
        LimbeckError: it has an unknown key, or lacks what reproducing the run needs.
    """
    try:
        parsed = Record.model_validate(record, context=WRITE_CONTEXT)
    except ValidationError as error:
        raise LimbeckError(f"the record violates schema {SCHEMA}: {_format_validation_error(error)}") from None
    missing = [
        name for name in ("limbeck", "recipe", "versions", "machine", "environment") if not getattr(parsed, name)
    ]
    missing += [] if parsed.data.fingerprint else ["data.fingerprint"]
    missing += [] if parsed.primary_metric in parsed.metric_info else ["metric_info of the primary_metric"]
    if parsed.schema_version != SCHEMA or missing:
        problem = f"no {', '.join(missing)}" if missing else f"the schema {parsed.schema_version}"
        raise LimbeckError(f"the record has {problem}, and a record of schema {SCHEMA} must allow to reproduce its run")


def render_json_schema() -> str:
    """The JSON Schema (draft 2020-12) of a record; ``record.schema.json`` in the package holds this text."""
    header = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"limbeck-record-{SCHEMA}.{SCHEMA_MINOR}",
    }
    return json.dumps({**header, **Record.model_json_schema(by_alias=True)}, indent=1, ensure_ascii=False) + "\n"


def check_record(run_dir: Path) -> list[str]:
    """The problems of ``run_dir/record.json`` and the files it names, each in a sentence; empty where it is intact.

    Raises:
        LimbeckError: there is no record, or it cannot be parsed.
    """
    path = Path(run_dir) / "record.json"
    raw = load_json(path)
    record = parse_record(raw, source=str(path))
    problems = [problem] if (problem := integrity_error(raw)) else []
    if raw["schema"] == SCHEMA and record.schema_minor <= SCHEMA_MINOR:
        try:
            validate_strict(raw)
        except LimbeckError as error:
            problems.append(str(error))
    # The raw keys: a record of an older schema names its files by their older names.
    for name, file in zip(raw["files"] if record.files else {}, record.files.values(), strict=True):
        file_path = path.parent / Path(name).name
        if not file_path.exists():
            problems.append(f"{name} is missing, and the record names it")
        elif digest(file_path) != file.sha256:
            problems.append(f"{name} is not the file that the record names: its SHA-256 differs")
    return problems


def integrity_warning(run_dir: Path) -> str | None:
    """Why the hashes of ``run_dir/record.json`` do not match; ``None`` where they do, and for schema 1."""
    raw = load_json(Path(run_dir) / "record.json")
    return integrity_error(raw) if isinstance(raw, dict) and raw.get("schema") != 1 else None


def _format_validation_error(error: ValidationError) -> str:
    """The first problem, with its key path."""
    first = error.errors(include_url=False)[0]
    key_path = ".".join(str(step) for step in first["loc"]) or "the record"
    if first["type"] == "unknown_key":
        return f"{key_path}: {first['msg']}"
    value = repr(first["input"])
    return f"{key_path} ({first['msg'].lower()}, found {value if len(value) <= 60 else f'{value[:57]}...'})"
