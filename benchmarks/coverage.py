"""How often a 95 % interval over few seeds holds the truth: the percentile bootstrap beside Student's t.

Differences paired by seed are drawn from a normal distribution, as many studies as asked for; the intervals are those
of `limbeck.evaluation.paired_mean_ci`, by which the verdicts of studies go.
"""

from __future__ import annotations

import argparse

import numpy as np
from results import row, write

from limbeck.evaluation import paired_mean_ci


def held(seeds: int, studies: int) -> dict[str, list[float]]:
    """For each study 100 where the interval holds the true difference, else 0, by interval."""
    draws = np.random.default_rng(seeds).normal(1.0, 1.0, (studies, seeds))
    found: dict[str, list[float]] = {"bootstrap": [], "student": []}
    for gains in draws:
        one = paired_mean_ci(gains.tolist(), [0.0] * seeds, n_resamples=2000)
        found["bootstrap"].append(100.0 * (one["low"] <= 1.0 <= one["high"]))
        found["student"].append(100.0 * (one["t_low"] <= 1.0 <= one["t_high"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    options = parser.parse_args()
    rows = []
    for seeds in (3, 5, 10):
        for name, values in held(seeds, options.studies).items():
            rows.append(
                row(
                    f"{name}_interval_holds_{seeds}_seeds",
                    values,
                    unit="% of studies",
                    aim="95",
                    digits=1,
                    data=f"normal differences of {seeds} seeds, simulated",
                )
            )
    write(rows)


if __name__ == "__main__":
    main()
