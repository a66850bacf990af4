"""Gradient norms of the variants of a study: two epochs of each, with a seed of no study; no test split is opened.

Prints the ratio of each loss's gradient norm to that of the supervised loss, and the weight at which it would equal the
ratio of the plain KD loss of the recipe (or half of it: --fraction 0.5). The recipes that compare variants at matched
gradient norms use these weights; docs/results/methods.md lists the ratios that the studies reached.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from statistics import geometric_mean

from limbeck.recipe import Recipe, find_recipe, load_recipe
from limbeck.recipe.overrides import apply_changes
from limbeck.recipe.schema import to_plain, validate
from limbeck.workflows._job.job import DataCache, Job
from limbeck.workflows.study.variants import StudyContext, make_trial_recipe, make_variants

SEED, EPOCHS = 90, 2


def measure_ratios(recipe: Recipe, name: str, folder: Path, data_cache: DataCache) -> dict[str, tuple[float, float]]:
    """By loss, the ratio to the supervised loss (geometric mean over the epochs), and its weight."""
    trial = make_trial_recipe(recipe, make_variants(recipe)[name], SEED, StudyContext(folder, [1], 1.0, 0))
    trial = validate(type(trial), apply_changes(to_plain(trial), {"stages.0.epochs": EPOCHS}))
    job = Job.from_recipe(trial, folder, data_cache=data_cache)
    teachers = {teacher: job.build_teacher(teacher).eval() for teacher in trial.teachers}
    job.train_stages(name, job.build_student(), teachers, resume=False, callbacks=[])
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    ratios = {}
    for column in (column for column in rows[0] if column.startswith("grad_norm_ratio/")):
        loss = column.partition("/")[2]
        values = [float(row[column]) for row in rows if row[column]]
        ratios[loss] = geometric_mean(values), float(rows[-1][f"loss_weight/{loss}"])
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe with a study, whose teachers have weights")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE overrides")
    parser.add_argument("--variants", nargs="+", help="only these (default: all)")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the gradient ratio of the plain KD loss")
    options = parser.parse_args()
    recipe, data_cache = load_recipe(find_recipe(options.recipe), options.settings), DataCache()
    distilled_names = [
        name for name, variant in make_variants(recipe).items() if variant.uses_teachers and name != "distilled"
    ]
    with tempfile.TemporaryDirectory() as work:
        kd_ratio = measure_ratios(recipe, "distilled", Path(work) / "distilled", data_cache)["kd"][0]
        print(f"distilled: the gradient norm of kd is {kd_ratio:.1f} times that of the supervised loss")
        for name in options.variants or distilled_names:
            for loss, (ratio, weight) in measure_ratios(recipe, name, Path(work) / name, data_cache).items():
                fit = weight * options.fraction * kd_ratio / ratio
                print(f"{name}: {loss} with weight {weight:g} has ratio {ratio:.3g}; weight {fit:.3g} would match")


if __name__ == "__main__":
    main()
