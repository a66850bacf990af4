"""How a benchmark writes what it measured: rows of benchmarks/results/NAME.json, never by hand."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent / "results"


def row(name: str, values: list[float], *, unit: str, aim: str, data: str, digits: int = 4) -> dict:
    """One figure: the mean of ``values`` (seeds or repeats) with its 95 % interval by Student's t."""
    from limbeck.evaluation import mean_ci

    found = mean_ci(values)

    def short(value: float | None) -> float | None:
        return None if value is None else round(value, digits)

    return {
        "name": name, "value": short(found["mean"]), "low": short(found["low"]), "high": short(found["high"]),
        "unit": unit, "n": len(values), "aim": aim, "command": "python " + " ".join([_script(), *sys.argv[1:]]),
        "data": data, "machine": f"{os.cpu_count()} cores, {torch.get_num_threads()} thread(s)",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }  # fmt: skip


def write(rows: list[dict], **more: object) -> Path:
    """Write the rows (and whatever else the script found) to ``results/<script>.json``; print them."""
    path = HERE / f"{Path(sys.argv[0]).stem}.json"
    path.write_text(json.dumps({"rows": rows, **more}, indent=1) + "\n")
    for one in rows:
        ends = "" if one["low"] is None else f" [{one['low']}, {one['high']}]"
        print(f"{one['name']}: {one['value']}{ends} {one['unit']} (n = {one['n']}; aim {one['aim']})")
    return path


def parsed(parser: argparse.ArgumentParser, *, places: tuple[str, ...]) -> argparse.Namespace:
    """The options; rows tell the command without those in ``places``, which are only this machine's."""
    options = parser.parse_args()
    told = [(name, value) for name, value in vars(options).items() if name not in places]
    changed = [(f"--{name.replace('_', '-')}", value) for name, value in told if value != parser.get_default(name)]
    sys.argv[1:] = [str(word) for pair in changed for word in pair]
    return options


def _script() -> str:
    return f"benchmarks/{Path(sys.argv[0]).name}"
