"""Coverage of 95 % intervals over few seeds: percentile bootstrap and Student's t.

Differences paired by seed are drawn from a normal distribution for --studies simulated studies; the intervals are those
of `limbeck.evaluation.paired_mean_ci`, which decide the verdicts of studies.
"""

from __future__ import annotations

import argparse

import numpy as np
from results import make_row, write_rows

from limbeck.evaluation import paired_mean_ci


def simulate_coverage(num_seeds: int, num_studies: int) -> dict[str, list[float]]:
    """For each study and interval, 100 where the interval contains the true difference, else 0."""
    draws = np.random.default_rng(num_seeds).normal(1.0, 1.0, (num_studies, num_seeds))
    covered: dict[str, list[float]] = {"bootstrap": [], "student": []}
    for gains in draws:
        mean = paired_mean_ci(gains.tolist(), [0.0] * num_seeds, n_resamples=2000)
        covered["bootstrap"].append(100.0 * (mean["low"] <= 1.0 <= mean["high"]))
        covered["student"].append(100.0 * (mean["t_low"] <= 1.0 <= mean["t_high"]))
    return covered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    options = parser.parse_args()
    rows = [
        make_row(
            f"{name}_interval_holds_{num_seeds}_seeds", values, unit="% of studies", aim="95", digits=1,
            data=f"normal differences of {num_seeds} seeds, simulated",
        )
        for num_seeds in (3, 5, 10)
        for name, values in simulate_coverage(num_seeds, options.studies).items()
    ]  # fmt: skip
    write_rows(rows)


if __name__ == "__main__":
    main()
