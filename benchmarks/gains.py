"""From finished run folders to the figures of a claim: gain over the student alone, share of the gap recovered."""

from __future__ import annotations

import json
from pathlib import Path

from results import row


def gains(name: str, runs: list[Path], *, data: str) -> tuple[list[dict], dict[str, list[float]]]:
    """The rows ``<name>_gain`` and ``<name>_gap_recovered`` over the runs (seeds), and the test accuracies behind them.

    The gap recovered is the ratio of the mean gain to the mean gap, and its interval that of a bootstrap over seeds: a
    mean of ratios would be ruled by the seed whose gap happens to be smallest.
    """
    import numpy as np

    records = [json.loads((run / "record.json").read_text()) for run in runs]
    tops: dict[str, list[float]] = {"baseline": [], "distilled": [], "teacher": []}
    for record in records:
        for model in record["models"].values():
            tops[model["role"]].append(100 * model["test"]["metrics"]["accuracy"])
    alone, distilled, teacher = (np.array(tops[role]) for role in ("baseline", "distilled", "teacher"))
    gain, gap = distilled - alone, teacher - alone
    draws = np.random.default_rng(0).integers(0, len(gain), (10_000, len(gain)))
    shares = gain[draws].mean(1) / gap[draws].mean(1)
    recovered = row(f"{name}_gap_recovered", [float(gain.mean() / gap.mean())], unit="share", aim="report", data=data)
    recovered |= {"n": len(gain), "low": round(float(np.quantile(shares, 0.025)), 4)}
    recovered |= {"high": round(float(np.quantile(shares, 0.975)), 4)}
    rows = [row(f"{name}_gain", gain.tolist(), unit="points", aim="low > 0", data=data, digits=2), recovered]
    rows += [
        row(
            f"{name}_{'alone' if role == 'baseline' else role}_accuracy",
            values,
            unit="% of the test part",
            aim="report",
            data=data,
            digits=2,
        )
        for role, values in tops.items()
    ]
    return rows, tops
