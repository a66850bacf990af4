"""How a benchmark writes what it measured: rows of benchmarks/results/NAME.json, never by hand."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from pathlib import Path

import torch

from limbeck.evaluation import mean_ci

RESULTS = Path(__file__).parent / "results"


def make_row(name: str, values: list[float], *, unit: str, aim: str, data: str, digits: int = 4) -> dict:
    """One figure: the mean of ``values`` (seeds or repeats) with its 95 % interval by Student's t."""
    mean = mean_ci(values)
    numbers = {key: None if mean[key] is None else round(mean[key], digits) for key in ("mean", "low", "high")}
    return {
        "name": name, "value": numbers["mean"], "low": numbers["low"], "high": numbers["high"],
        "unit": unit, "n": len(values), "aim": aim,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "data": data, "machine": f"{os.cpu_count()} cores, {torch.get_num_threads()} thread(s)",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }  # fmt: skip


def gain_row(name: str, gain: dict, data: str, *, aim: str = "report") -> dict:
    """A gain of a study in points, with the wider of its two intervals at each end, which decides the verdict."""
    low, high = min(gain["low"], gain["t_low"]), max(gain["high"], gain["t_high"])
    row = make_row(name, [gain["mean"]], unit="points", aim=aim, data=data, digits=2)
    return row | {"low": round(low, 2), "high": round(high, 2), "n": gain["num_seeds"]}


def fraction_row(name: str, gap_recovered: dict, data: str, *, aim: str = "report") -> dict:
    """The fraction of the gap to the teacher that a study recovered."""
    row = make_row(name, [gap_recovered["fraction"]], unit="of the gap", aim=aim, data=data, digits=3)
    ends = {end: None if gap_recovered[end] is None else round(gap_recovered[end], 3) for end in ("low", "high")}
    return row | ends | {"n": gap_recovered["num_seeds"]}


def write_rows(rows: list[dict], *, name: str | None = None, **extra: object) -> Path:
    """Write the rows, and further results under their names, to ``results/<name or script>.json``; print the rows."""
    path = RESULTS / f"{name or Path(sys.argv[0]).stem}.json"
    path.write_text(json.dumps({"rows": rows, **extra}, indent=1) + "\n")
    for row in rows:
        interval = "" if row["low"] is None else f" [{row['low']}, {row['high']}]"
        print(f"{row['name']}: {row['value']}{interval} {row['unit']} (n = {row['n']}; aim {row['aim']})")
    return path


def parse_options(parser: argparse.ArgumentParser, *, local: tuple[str, ...]) -> argparse.Namespace:
    """Parse the command line; the command in the rows omits the options in ``local``, which depend on the machine."""
    options = parser.parse_args()
    changed = [
        (f"--{name.replace('_', '-')}", value)
        for name, value in vars(options).items()
        if name not in local and value != parser.get_default(name)
    ]
    sys.argv[1:] = [str(word) for pair in changed for word in pair]
    return options
