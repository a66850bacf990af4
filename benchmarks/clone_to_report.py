"""Seconds of `git clone` and `make distill`, from an empty folder to the report.

The package caches of pip and uv are warm if packages were installed on this machine before.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import make_row, write_rows

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    seconds = [measure_clone() for _ in range(options.repeats)]
    write_rows([
        make_row(
            "clone_to_report_seconds", seconds, unit="s", aim="<= 120", data="digits, warm package cache", digits=1
        )
    ])  # fmt: skip


def measure_clone() -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), f"{folder}/limbeck"], check=True)
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        subprocess.run(["make", "distill"], cwd=f"{folder}/limbeck", env=environment, check=True)
        seconds = time.perf_counter() - start
        if not list(Path(folder).glob("limbeck/runs/digits/report.html")):
            sys.exit("make distill wrote no report")
    return seconds


if __name__ == "__main__":
    main()
