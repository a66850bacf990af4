"""Looks whether a run's record is what its schema says, and still what was written."""

from __future__ import annotations

from pathlib import Path

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import digest

__all__ = ["changed", "check_record"]


def check_record(run: Path) -> list[str]:
    """What is wrong with ``run/record.json`` and the files it names, each in a sentence; nothing where all is well.

    Raises:
        LimbeckError: there is no record, or it is not one at all.
    """
    from limbeck.report.read import load, parse
    from limbeck.report.record import MINOR, SCHEMA
    from limbeck.report.record_hash import broken
    from limbeck.report.write import strictly

    path = Path(run) / "record.json"
    raw = load(path)
    record = parse(raw, where=str(path))
    found = [text] if (text := broken(raw)) else []
    if raw["schema"] == SCHEMA and record.minor <= MINOR:
        try:
            strictly(raw)
        except LimbeckError as error:
            found.append(str(error))
    for name, file in record.files.items():
        place = path.parent / Path(name).name
        if not place.exists():
            found.append(f"{name} is gone, and the record names it")
        elif digest(place) != file.sha256:
            found.append(f"{name} is not the file that the record names: its SHA-256 is another one")
    return found


def changed(run: Path) -> str | None:
    """In a sentence that, and how, ``run/record.json`` is not as it was written; ``None`` where its hashes fit.

    One of schema 1 has no hash that could fit or not; that is no reason to warn.
    """
    from limbeck.report.read import load
    from limbeck.report.record import SCHEMA
    from limbeck.report.record_hash import broken

    raw = load(Path(run) / "record.json")
    return broken(raw) if isinstance(raw, dict) and raw.get("schema") == SCHEMA else None
