"""Long measurements, stored as each ends: a killed benchmark continues with what is missing."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import limbeck
from limbeck.utils.io import write_atomically


def load_or_run(folder: Path, name: str, settings: dict, measure: Callable[[], dict]) -> dict:
    """The result of ``measure()`` with these settings, read from ``folder`` if the same code stored it."""
    path = folder / f"{name}-{hash_settings(settings)}.json"
    if path.exists():
        result = json.loads(path.read_text())
        print(f"{name}: measured before, {result['measured']}", flush=True)
        return result
    print(f"{name}: starts", flush=True)
    result = measure() | {"measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: partial.write_text(json.dumps(result)))
    return result


def hash_settings(settings: dict) -> str:
    """A short hash of the settings and of the code of limbeck and of the benchmarks, so that no result is outdated."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    package = Path(limbeck.__file__).parent
    for file in (*sorted(Path(__file__).parent.glob("*.py")), *sorted(package.rglob("*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
