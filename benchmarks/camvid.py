"""Segmentation of CamVid: does a small U-Net gain in mean IoU from a larger one? `limbeck study` over three seeds.

Each seed trains its own teacher, baseline and distilled student with the recipe `camvid` (or --recipe camvid_full on a
GPU). Reads $LIMBECK_DATA/camvid. Finished trials in --work are reused. Writes benchmarks/results/camvid.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from results import fraction_row, gain_row, parse_options, write_rows

from limbeck.workflows import study as run_study

DATA = "CamVid, official splits, 367 training images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/camvid"), help="folder of the trials")
    parser.add_argument("--recipe", default="camvid", choices=("camvid", "camvid_full"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="changes of the recipe")
    options = parse_options(parser, local=("work",))
    study = run_study(
        options.recipe, ["study={baselines: [student_only]}", *options.set], seeds=options.seeds,
        output_dir=options.work, resume=(options.work / "recipe.yaml").exists(), callbacks=[],
    )  # fmt: skip
    distilled = study["results"]["variants"]["distilled"]
    write_rows([
        gain_row("camvid_kd_gain_miou", distilled["gain"], DATA, aim="low > 0"),
        fraction_row("camvid_gap_recovered", distilled["gap_recovered"], DATA),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
