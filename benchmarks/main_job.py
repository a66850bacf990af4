"""The main job over five seeds: does the student gain from its teacher, against itself alone at equal steps?

Every seed is a whole `limbeck distill`: its own split, labels, starting weights, teacher, control and sealed test. The
digits recipe was chosen on validation parts; this script reads each seed's test part once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gains import gains
from results import row, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    limbeck = str(Path(sys.executable).with_name("limbeck"))
    with tempfile.TemporaryDirectory() as folder:
        runs, seconds = [], []
        for seed in seeds:
            out = Path(folder) / str(seed)
            begun = time.perf_counter()
            subprocess.run([limbeck, "distill", "--seed", str(seed), "--out", str(out)], check=True)
            seconds.append(time.perf_counter() - begun)
            runs.append(out)
        rows, accuracies = gains("digits", runs, data="digits, 100 labels of 1,078")
    write([*rows, row("main_job_seconds", seconds, unit="s", aim="< 90", data="digits", digits=1)], test=accuracies)


if __name__ == "__main__":
    main()
