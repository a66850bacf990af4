"""Runs `limbeck distill` over seeds, and the rows of a claim: gain over the baseline, fraction of the gap recovered."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from results import make_row

ROLES = ("baseline", "distilled", "teacher")


def run_seeds(name: str, words: list[str], *, num_seeds: int, data: str) -> tuple[list[dict], dict, list[float]]:
    """Run ``limbeck distill`` with ``words`` for each seed; rows, test accuracies by role, and seconds of each run.

    The gap recovered is the ratio of the mean gain to the mean gap, with a bootstrap interval over seeds: a mean of
    ratios would be dominated by the seed with the smallest gap.
    """
    limbeck = str(Path(sys.executable).with_name("limbeck"))
    accuracies: dict[str, list[float]] = {role: [] for role in ROLES}
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(num_seeds):
            out, start = Path(folder) / str(seed), time.perf_counter()
            subprocess.run([limbeck, "distill", *words, "--seed", str(seed), "--out", str(out)], check=True)
            seconds.append(time.perf_counter() - start)
            for model in json.loads((out / "record.json").read_text())["models"].values():
                accuracies[model["role"]].append(100 * model["test"]["metrics"]["accuracy"])
    return make_gain_rows(name, accuracies, data=data), accuracies, seconds


def make_gain_rows(name: str, accuracies: dict[str, list[float]], *, data: str) -> list[dict]:
    """The rows ``<name>_gain``, ``<name>_gap_recovered`` and the accuracy of each role."""
    baseline, distilled, teacher = (np.array(accuracies[role]) for role in ROLES)
    gain, gap = distilled - baseline, teacher - baseline
    indices = np.random.default_rng(0).integers(0, len(gain), (10_000, len(gain)))
    low, high = np.quantile(gain[indices].mean(1) / gap[indices].mean(1), [0.025, 0.975])
    recovered = make_row(
        f"{name}_gap_recovered", [float(gain.mean() / gap.mean())], unit="of the gap", aim="report", data=data
    )
    return [
        make_row(f"{name}_gain", gain.tolist(), unit="points", aim="low > 0", data=data, digits=2),
        recovered | {"n": len(gain), "low": round(float(low), 4), "high": round(float(high), 4)},
        *(
            make_row(
                f"{name}_{role}_accuracy", values, unit="% of the test split", aim="report", data=data,
                digits=2,
            )
            for role, values in accuracies.items()
        ),
    ]  # fmt: skip
