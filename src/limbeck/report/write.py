"""Writes ``record.json``: strictly, sealed, and whole. The schema it keeps is a file of the package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import write_atomically

__all__ = ["schema_text", "strictly", "write_record"]


def write_record(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``folder/record.json`` with its hashes, and give what was written.

    Raises:
        LimbeckError: the record is not what the schema says, has a key that the schema does not have, or holds NaN.
    """
    from limbeck.report.record import MINOR, SCHEMA
    from limbeck.report.record_hash import sealed

    whole = sealed({"schema": SCHEMA, "minor": MINOR, **record})
    strictly(whole)
    text = json.dumps(whole, indent=1, allow_nan=False)
    write_atomically(folder / "record.json", lambda path: path.write_text(text, encoding="utf-8"))
    return whole


def strictly(record: Mapping[str, Any]) -> None:
    """Refuse a record that this limbeck would not write: with keys of its own, or without what repeats the run."""
    from pydantic import ValidationError

    from limbeck.report.read import complaint
    from limbeck.report.record import SCHEMA, Record
    from limbeck.report.schema_base import WRITING

    try:
        read = Record.model_validate(record, context=WRITING)
    except ValidationError as error:
        raise LimbeckError(f"the record is not what schema {SCHEMA} says: {complaint(error)}") from None
    absent = [name for name in ("limbeck", "recipe", "versions", "machine", "environment") if not getattr(read, name)]
    absent += [] if read.data.fingerprint else ["data.fingerprint"]
    if read.version != SCHEMA or absent:
        what = f"no {', '.join(absent)}" if absent else f"the schema {read.version}"
        raise LimbeckError(f"the record has {what}, and one of schema {SCHEMA} holds all that repeats its run")


def schema_text() -> str:
    """The JSON Schema (draft 2020-12) of a record, as ``record.schema.json`` in the package holds it."""
    from limbeck.report.record import MINOR, SCHEMA, Record

    made = Record.model_json_schema(by_alias=True)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"limbeck-record-{SCHEMA}.{MINOR}"}
    return json.dumps({**head, **made}, indent=1, ensure_ascii=False) + "\n"
