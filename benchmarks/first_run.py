"""The first run of a new user: does `limbeck distill` end in "improves"?

`python benchmarks/first_run.py` runs the digits recipe for 20 seeds with 1 and with 2 threads, one after the other.
Each seed changes the split, the labels and all initial weights; the recipe was chosen with other seeds on validation
splits. Finished seeds in `--folder` are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from results import make_row, parse_options, write_rows

ROOT = Path(__file__).parent.parent
THREADS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "first_run")
    parser.add_argument("--threads", type=int, help="run the seeds with this number of threads, and write no results")
    options = parse_options(parser, local=("folder", "threads"))
    if options.threads is not None:
        run_seeds(options.folder, options.threads, options.seeds)
        return
    for threads in THREADS:
        command = [sys.executable, __file__, "--threads", str(threads), "--seeds", str(options.seeds)]
        subprocess.run(
            [*command, "--folder", str(options.folder)], env={**os.environ, "OMP_NUM_THREADS": str(threads)}, check=True
        )
    runs = {threads: [read_run(run_folder(options.folder, threads, seed)) for seed in range(options.seeds)]
            for threads in THREADS}  # fmt: skip
    rows = [row for threads in THREADS for row in make_rows(threads, runs[threads])]
    write_rows(rows, runs=runs)


def run_folder(folder: Path, threads: int, seed: int) -> Path:
    return folder / f"{threads}_threads" / str(seed)


def run_seeds(folder: Path, threads: int, num_seeds: int) -> None:
    """Run the seeds in this process, without the export, which the verdict does not depend on."""
    from limbeck.workflows import distill

    for seed in range(num_seeds):
        run_dir = run_folder(folder, threads, seed)
        if not (run_dir / "record.json").exists():
            settings = [f"seed={seed}", f"num_threads={threads}", "export.to=[]"]
            distill("digits", settings, run_dir=run_dir, callbacks=[], resume=(run_dir / "recipe.yaml").exists())


def read_run(folder: Path) -> dict:
    record = json.loads((folder / "record.json").read_text())
    models = record["models"]
    return {
        **{name: model["test"]["metrics"]["accuracy"] for name, model in models.items()},
        "improves": record["verdict"]["text"].startswith("Distillation improves"),
        "verdict": record["verdict"]["text"],
        "warnings": record["warnings"],
        "parameter_ratio": models["teacher"]["parameters"] / models["distilled"]["parameters"],
        "seconds": record["seconds"],
    }


def make_rows(threads: int, runs: list[dict]) -> list[dict]:
    data = f"digits, 50 labels of 719, {threads} thread(s)"
    suffix = f"{threads}_thread{'s' if threads > 1 else ''}"
    share = make_row(
        f"digits_first_run_improves_share_{suffix}", [float(run["improves"]) for run in runs], unit="of the seeds",
        aim=">= 0.95", data=data,
    )  # fmt: skip
    gain = [100 * (run["distilled"] - run["baseline"]) for run in runs]
    margin = [100 * (run["teacher"] - run["baseline"]) for run in runs]
    return [
        share | {"low": None, "high": None},
        make_row(f"digits_first_run_gain_{suffix}", gain, unit="points", aim="low > 0", data=data, digits=2),
        make_row(f"digits_first_run_margin_{suffix}", margin, unit="points", aim=">= 5", data=data, digits=2),
    ]


if __name__ == "__main__":
    main()
