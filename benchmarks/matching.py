"""How hard does each variant of a study pull? Two epochs of each, with a seed of no study; no test part is opened.

Prints the ratio of each term's gradient to that of the hard loss, and the weight with which it would pull as hard as
the plain kd loss of the recipe does (or half as hard: --share 0.5). Such weights stand in the recipes whose arms are
compared at matched gradient ratios; what was reached in the studies stands in docs/results/methods.md.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from statistics import geometric_mean

from limbeck.recipe import find_recipe, load_recipe
from limbeck.recipe.overrides import apply_changes
from limbeck.recipe.schema import to_plain, validate
from limbeck.workflows._job.data_cache import DataCache
from limbeck.workflows._job.job import Job
from limbeck.workflows.study.variants import StudyContext, make_trial_recipe, make_variants

SEED, EPOCHS = 90, 2


def pulls(recipe: object, name: str, folder: Path, loaded: DataCache) -> dict[str, tuple[float, float]]:
    """By term, the ratio to the hard loss (geometric mean over the epochs), and the weight it had."""
    own = make_trial_recipe(recipe, make_variants(recipe)[name], SEED, StudyContext(folder, [1], 1.0, 0))
    own = validate(type(own), apply_changes(to_plain(own), {"stages.0.epochs": EPOCHS}))
    job = Job.from_recipe(own, folder, data_cache=loaded)
    teachers = {one: job.build_teacher(one).eval() for one in own.teachers}
    job.train_stages(name, job.build_student(), teachers, resume=False, callbacks=[])
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    found = {}
    for column in (one for one in rows[0] if one.startswith("grad_norm_ratio/")):
        term = column.partition("/")[2]
        values = [float(row[column]) for row in rows if row[column]]
        found[term] = geometric_mean(values), float(rows[-1][f"loss_weight/{term}"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe with a study, whose teachers have weights")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE settings laid over it")
    parser.add_argument("--variants", nargs="+", help="only these (default: all)")
    parser.add_argument("--share", type=float, default=1.0, help="of the plain kd loss's pull")
    options = parser.parse_args()
    recipe, loaded = load_recipe(find_recipe(options.recipe), options.settings), DataCache()
    listening = [name for name, arm in make_variants(recipe).items() if arm.uses_teachers and name != "distilled"]
    with tempfile.TemporaryDirectory() as work:
        plain_pull = pulls(recipe, "distilled", Path(work) / "distilled", loaded)["kd"][0]
        print(f"distilled: kd pulls {plain_pull:.1f} times as hard as the weighted hard loss")
        for name in options.variants or listening:
            for term, (ratio, weight) in pulls(recipe, name, Path(work) / name, loaded).items():
                fit = weight * options.share * plain_pull / ratio
                print(f"{name}: {term} with weight {weight:g} pulls {ratio:.3g}; weight {fit:.3g} would match")


if __name__ == "__main__":
    main()
