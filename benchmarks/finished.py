"""Measurements that take minutes, put by as each ends: a benchmark that was killed goes on with what is lacking."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import limbeck


def kept(folder: Path, name: str, settings: dict, run: Callable[[], dict]) -> dict:
    """What ``run()`` found with these settings: read where this very code wrote it down already, else run now."""
    path = folder / f"{name}-{known_by(settings)}.json"
    if path.exists():
        before = json.loads(path.read_text())
        print(f"{name}: measured already, {before['measured']}", flush=True)
        return before
    print(f"{name}: begins", flush=True)
    found = run()
    found["measured"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(found))
    partial.replace(path)
    return found


def known_by(settings: dict) -> str:
    """A short hash of the settings and of the code of limbeck and of the benchmarks.

    A figure of another limbeck must not be taken for one of this.
    """
    here, package = Path(__file__).parent, Path(limbeck.__file__).parent
    text = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in (*sorted(here.glob("*.py")), *sorted(package.rglob("*.py"))):
        text.update(file.read_bytes())
    return text.hexdigest()[:12]
