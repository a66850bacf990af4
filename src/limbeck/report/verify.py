"""Looks whether a run's record is what its schema says, and still what was written."""

from __future__ import annotations

from pathlib import Path

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import digest

__all__ = ["check_record", "integrity_warning"]


def check_record(run_dir: Path) -> list[str]:
    """What is wrong with ``run/record.json`` and the files it names, each in a sentence; nothing where all is well.

    Raises:
        LimbeckError: there is no record, or it is not one at all.
    """
    from limbeck.report.read import load_json, parse_record
    from limbeck.report.record import SCHEMA, SCHEMA_MINOR
    from limbeck.report.record_hash import integrity_error
    from limbeck.report.write import validate_strict

    path = Path(run_dir) / "record.json"
    raw = load_json(path)
    record = parse_record(raw, source=str(path))
    problems = [text] if (text := integrity_error(raw)) else []
    if raw["schema"] == SCHEMA and record.schema_minor <= SCHEMA_MINOR:
        try:
            validate_strict(raw)
        except LimbeckError as error:
            problems.append(str(error))
    # As they were written: a record of an older schema names its files by their older names.
    names = raw["files"] if record.files else {}
    for name, file in zip(names, record.files.values(), strict=True):
        file_path = path.parent / Path(name).name
        if not file_path.exists():
            problems.append(f"{name} is gone, and the record names it")
        elif digest(file_path) != file.sha256:
            problems.append(f"{name} is not the file that the record names: its SHA-256 is another one")
    return problems


def integrity_warning(run_dir: Path) -> str | None:
    """In a sentence that, and how, ``run/record.json`` is not as it was written; ``None`` where its hashes fit.

    One of schema 1 has no hash that could fit or not; that is no reason to warn.
    """
    from limbeck.report.read import load_json
    from limbeck.report.record_hash import integrity_error

    raw = load_json(Path(run_dir) / "record.json")
    return integrity_error(raw) if isinstance(raw, dict) and raw.get("schema") != 1 else None
