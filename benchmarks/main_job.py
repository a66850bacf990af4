"""The main job over five seeds: does the student gain from its teacher, against the baseline at equal steps?

Each seed is a complete `limbeck distill`: its split, labels, initial weights, teacher, baseline and held-out test. The
digits recipe was chosen on validation splits; this script reads the test split of each seed once.
"""

from __future__ import annotations

import argparse

from results import make_row, write_rows
from run_seeds import run_seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    rows, accuracies, seconds = run_seeds(
        "digits", ["digits_100"], num_seeds=options.seeds, data="digits, 100 labels of 1,078"
    )
    rows.append(make_row("main_job_seconds", seconds, unit="s", aim="< 90", data="digits", digits=1))
    write_rows(rows, test=accuracies)


if __name__ == "__main__":
    main()
