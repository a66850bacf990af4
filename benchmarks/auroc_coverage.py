"""Coverage of 95 % intervals of an AUROC and of a difference of two, for few scores on each side.

Scores are drawn from normal distributions of a known area; the intervals are those of `limbeck.evaluation.auroc` and
`auroc_difference`, which `limbeck evaluate` reports.
"""

from __future__ import annotations

import argparse
import math

import torch
from results import make_row, write_rows

from limbeck.evaluation import auroc, auroc_difference

SETTINGS = [(n, m, shift, spread) for n, m in ((10, 10), (30, 30), (100, 100)) for shift in (0.0, 1.0, 2.0, 3.0)
            for spread in (1.0, 3.0)]  # fmt: skip


def simulate(trials: int, n: int, m: int, shift: float, spread: float) -> tuple[list[float], list[float]]:
    """For each trial 100 where the interval holds the true area, and the true difference of zero; else 0."""
    generator = torch.Generator().manual_seed(n)
    area = 0.5 * (1 + math.erf(shift * spread / math.sqrt(1 + spread**2) / math.sqrt(2)))

    def draw(k: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(k, generator=generator)

    values, differences = list[float](), list[float]()
    for _ in range(trials):
        inliers, outliers = draw(n) + shift * spread, draw(m, spread)
        result = auroc(inliers, outliers)
        values.append(100.0 * (result["low"] <= area <= result["high"]))
        pair = [(inliers + draw(n, 0.5), outliers + draw(m, 0.5)) for _ in range(2)]
        difference = auroc_difference(*pair)
        differences.append(100.0 * (difference["low"] <= 0 <= difference["high"]))
    return values, differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    options = parser.parse_args()
    everything: dict[str, list[list[float]]] = {"auroc": [], "auroc_difference": []}
    for setting in SETTINGS:
        for name, covered in zip(everything, simulate(options.trials, *setting), strict=True):
            everything[name].append(covered)
    rows = []
    for name, covered in everything.items():
        shares = [sum(values) / len(values) for values in covered]
        data = f"normal scores, {len(SETTINGS)} settings of 10, 30 and 100 a side, simulated"
        rows.append(
            make_row(
                f"{name}_interval_coverage", [value for values in covered for value in values], unit="% of samples",
                aim="95", digits=1, data=data,
            )
        )  # fmt: skip
        rows.append(
            make_row(
                f"{name}_interval_coverage_lowest", covered[shares.index(min(shares))], unit="% of samples", aim="95",
                digits=1, data=f"{data}: the setting of the lowest coverage",
            )
        )  # fmt: skip
    write_rows(rows)


if __name__ == "__main__":
    main()
