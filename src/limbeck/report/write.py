"""Writes ``record.json``: strictly, sealed, and whole. The schema it keeps is a file of the package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.core.errors import LimbeckError
from limbeck.report.metric_info import METRIC_INFO, PRIMARY_METRIC
from limbeck.utils.io import write_atomically

__all__ = ["render_json_schema", "validate_strict", "write_record"]


def write_record(run_dir: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``run_dir/record.json`` with its schema and its hashes, and give what was written.

    ``metric_info`` and ``primary_metric`` are those of classification where ``record`` has none.

    Raises:
        LimbeckError: the record is not what the schema says, has a key that the schema does not have, or holds NaN.
    """
    from limbeck.report.record import SCHEMA, SCHEMA_MINOR
    from limbeck.report.record_hash import add_hashes

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
    """Refuse a record that this limbeck would not write: with keys of its own, or without what repeats the run."""
    from pydantic import ValidationError

    from limbeck.report.read import format_validation_error
    from limbeck.report.record import SCHEMA, Record
    from limbeck.report.schema_base import WRITE_CONTEXT

    try:
        parsed = Record.model_validate(record, context=WRITE_CONTEXT)
    except ValidationError as error:
        raise LimbeckError(f"the record is not what schema {SCHEMA} says: {format_validation_error(error)}") from None
    missing = [
        name for name in ("limbeck", "recipe", "versions", "machine", "environment") if not getattr(parsed, name)
    ]
    missing += [] if parsed.data.fingerprint else ["data.fingerprint"]
    missing += [] if parsed.primary_metric in parsed.metric_info else ["metric_info of the primary_metric"]
    if parsed.schema_version != SCHEMA or missing:
        problem = f"no {', '.join(missing)}" if missing else f"the schema {parsed.schema_version}"
        raise LimbeckError(f"the record has {problem}, and one of schema {SCHEMA} holds all that repeats its run")


def render_json_schema() -> str:
    """The JSON Schema (draft 2020-12) of a record, as ``record.schema.json`` in the package holds it."""
    from limbeck.report.record import SCHEMA, SCHEMA_MINOR, Record

    schema = Record.model_json_schema(by_alias=True)
    header = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"limbeck-record-{SCHEMA}.{SCHEMA_MINOR}",
    }
    return json.dumps({**header, **schema}, indent=1, ensure_ascii=False) + "\n"
