"""CamVid with three teachers of different architecture against the baseline and the best single teacher, over seeds.

A `limbeck study` of the recipe `camvid_three_teachers` on the data in $LIMBECK_DATA/camvid; needs
`pip install 'limbeck[efficientnet]'`. The ensemble is chosen on validation. The teachers are trained once, by
`limbeck distill camvid_three_teachers --seed 100` (the published rows: `vit` with 100 epochs, `lraspp` and `unet` with
`teacher_training.epochs=40`), and their weights (RUN/checkpoint/NAME.safetensors) are given by --weights, so the
intervals are over seeds of the student. Finished trials in --work are reused. Writes
benchmarks/results/camvid_teachers.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from results import gain_row, make_row, parse_options, write_rows
from task_study import read_values, variant_rows

from limbeck.evaluation import paired_mean_ci
from limbeck.workflows import study as run_study

RECIPE = "camvid_three_teachers"
ENSEMBLES = ("distilled", "logits", "confident")
DATA = "CamVid, official splits, 367 training images of 120×90 pixels"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of the study (default: runs/study-camvid-teachers)")
    parser.add_argument("--weights", nargs="+", default=[], metavar="NAME=FILE", help="weights of the teachers")
    parser.add_argument("--seeds", type=int, default=3)
    options = parse_options(parser, local=("work", "weights"))
    work = options.work or Path("runs/study-camvid-teachers")
    weights = ["teachers.{}.weights={}".format(*pair.split("=", 1)) for pair in options.weights]
    study = run_study(
        RECIPE, weights, seeds=options.seeds, output_dir=work, resume=(work / "recipe.yaml").exists(), callbacks=[]
    )
    validation = {
        name: summary["val_miou"]["mean"] for name, summary in study["results"]["variants"].items() if name != "teacher"
    }
    ensemble = max(ENSEMBLES, key=validation.__getitem__)
    percent = {name: [100 * value for value in values] for name, values in read_values(work, study).items()}
    rows = [make_row("camvid_baseline_miou", percent["student_only"], unit="%", aim="report", data=DATA, digits=2)]
    for name, variant, baseline, aim in (
        ("camvid_one_teacher_gain", "only_unet", "student_only", "low > 0"),
        ("camvid_three_teachers_gain", ensemble, "student_only", ">= 2.1"),
        ("camvid_three_over_best_single", ensemble, "only_unet", ">= 0"),
    ):
        rows.append(gain_row(name, paired_mean_ci(percent[variant], percent[baseline]), DATA, aim=aim))
    rows += variant_rows("camvid_ablation", study, DATA)
    write_rows(rows, ensemble=ensemble, validation=validation, values=percent)


if __name__ == "__main__":
    main()
