"""Did it help? The published studies: digits, Fashion-MNIST and a part of Tiny-ImageNet, each by `limbeck study`.

Digits and Fashion-MNIST over ten seeds, then by the number of labels; Tiny-ImageNet with one teacher for all seeds. The
recipes are those that come along; settings were chosen on validation parts. Everything is kept under --work, and a
second call only counts. Pages go to docs/results, figures to benchmarks/results/studies.json.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from results import parsed, write
from studies_pages import write_pages
from study_figures import gain, share

from limbeck.workflows import study


@dataclass(frozen=True)
class Plan:
    """One study: its recipe, what is changed of it, and how many seeds."""

    recipe: str
    settings: tuple[str, ...]
    seeds: int
    data: str


PLANS = {
    "digits-100": Plan("digits", (), 10, "digits, 100 labels of 1,078"),
    "fashion-500": Plan("fashion_mnist", (), 10, "Fashion-MNIST, 500 labels of 12,000 pictures"),
    **{
        f"digits-{labels}": Plan("digits", (f"data.num_labeled={labels}",), 3, f"digits, {labels:,} labels of 1,078")
        for labels in (50, 200, 500, 1078)
    },
    **{
        f"fashion-{labels}": Plan(
            "fashion_mnist", (f"data.num_labeled={labels}",), 3, f"Fashion-MNIST, {labels:,} labels of 12,000 pictures"
        )
        for labels in (50, 12000)
    },
    "tinyimagenet": Plan("tinyimagenet_first", (), 3, "Tiny-ImageNet at 32 pixels, 20 of 200 classes"),
}

FIGURE_NAMES = {"equal_time": "longer", "label_smoothing": "smoothed"}
"""Names of variants in the names of published figures, where they differ."""


def done(options: argparse.Namespace) -> dict[str, dict]:
    """What ``study.json`` of each plan holds, after running what is missing."""
    found = {}
    for name, plan in PLANS.items():
        if options.only and name.partition("-")[0] not in options.only:
            continue
        out, settings = options.work / name, list(plan.settings)
        if plan.recipe == "tinyimagenet_first":
            settings += [f"data.root={options.tinyimagenet}"]
            settings += [f"teachers.teacher.weights={options.teacher}"] if options.teacher else []
        found[name] = study(
            plan.recipe, settings, seeds=plan.seeds, jobs=options.jobs, output_dir=out,
            resume=(out / "recipe.yaml").exists(), callbacks=[],
        )  # fmt: skip
    return found


def figures(found: dict[str, dict]) -> list[dict]:
    """The rows by the names under which they are published."""
    rows = []
    names = {"digits-100": "digits_gain_10_seeds", "fashion-500": "fashion_gain_10_seeds"}
    for name, one in found.items():
        told, arms = PLANS[name].data, one["results"]["variants"]
        label = names.get(name, f"{name.replace('-', '_gain_')}_labels")
        if name != "tinyimagenet":
            rows.append(gain(label, arms["distilled"]["gain"], told, aim="low > 0" if name in names else "report"))
        if name in names or name == "tinyimagenet":
            short = name.partition("-")[0]
            rows += [
                gain(f"{short}_{FIGURE_NAMES.get(arm, arm)}_gain", arms[arm]["gain"], told)
                for arm in arms
                if arm not in ("student_only", "teacher") and (arm != "distilled" or short == "tinyimagenet")
            ]
            rows.append(share(f"{short}_first_gap_recovered" if short == "tinyimagenet" else f"{short}_gap_10_seeds",
                              arms["distilled"]["gap_recovered"], told))  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/studies"), help="where trials are kept")
    parser.add_argument("--only", nargs="+", default=[], choices=("digits", "fashion", "tinyimagenet"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--tinyimagenet", default="data/tinyimagenet32", help="the folder")
    parser.add_argument("--teacher", help="weights of the Tiny-ImageNet teacher; without, one is trained for each seed")
    options = parsed(parser, places=("work", "tinyimagenet", "teacher", "jobs"))
    found = done(options)
    rows = figures(found)
    write_pages(found, options.work)
    write(rows)


if __name__ == "__main__":
    main()
