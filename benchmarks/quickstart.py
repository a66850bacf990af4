"""The commands of docs/quickstart.md, word for word, over seeds: what the student gains, and how long it takes.

Each seed is a complete run: its split, labels, initial weights, teacher, baseline, and one read of the test images.
`quickstart_minutes` is the wall time of `limbeck new` and `limbeck distill`.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import make_row, write_rows
from run_seeds import run_seeds

PAGE = Path(__file__).parent.parent / "docs" / "quickstart.md"
DATA = "digits as images: 50 labels of 719 training images, 898 test images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    code, new, distill = (read_block(language, index) for language, index in (("python", 0), ("sh", 0), ("sh", 1)))
    limbeck = Path(sys.executable).with_name("limbeck")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        exec(code, {})
        start = time.perf_counter()
        subprocess.run([limbeck, *shlex.split(new)[1:]], check=True)
        new_seconds = time.perf_counter() - start
        lines = len(Path("recipe.yaml").read_text().splitlines())
        rows, accuracies, seconds = run_seeds(
            "quickstart", shlex.split(distill)[2:], num_seeds=options.seeds, data=DATA
        )
        os.chdir(PAGE.parent)
    minutes = [(new_seconds + run_seconds) / 60 for run_seconds in seconds]
    rows += [
        make_row("quickstart_lines", [float(lines)], unit="lines", aim="<= 20", data="recipe.yaml"),
        make_row("quickstart_minutes", minutes, unit="minutes", aim="<= 10", data=DATA, digits=2),
    ]
    write_rows(rows, test=accuracies)


def read_block(language: str, index: int) -> str:
    """A fenced block of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)[index]


if __name__ == "__main__":
    main()
