"""The published studies: digits, Fashion-MNIST and a subset of Tiny-ImageNet, each by `limbeck study`.

Digits and Fashion-MNIST over ten seeds, then by the number of labels; Tiny-ImageNet with one teacher for all seeds. The
recipes are the bundled ones, whose settings were chosen on validation splits. Everything is stored under --work, and
finished trials are reused. Writes docs/results and benchmarks/results/studies.json.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from results import fraction_row, gain_row, parse_options, write_rows
from studies_pages import write_pages

from limbeck.workflows import study as run_study


@dataclass(frozen=True)
class Plan:
    """One study: its recipe, overrides, number of seeds, and a description of the data."""

    recipe: str
    settings: tuple[str, ...]
    num_seeds: int
    data: str


PLANS = {
    "digits-100": Plan("digits_100", (), 10, "digits, 100 labels of 1,078"),
    "fashion-500": Plan("fashion_mnist", (), 10, "Fashion-MNIST, 500 labels of 12,000 images"),
    **{
        f"digits-{labels}": Plan(
            "digits_100", (f"data.num_labeled={labels}",), 3, f"digits, {labels:,} labels of 1,078"
        )
        for labels in (50, 200, 500, 1078)
    },
    **{
        f"fashion-{labels}": Plan(
            "fashion_mnist", (f"data.num_labeled={labels}",), 3, f"Fashion-MNIST, {labels:,} labels of 12,000 images"
        )
        for labels in (50, 12000)
    },
    "tinyimagenet": Plan("tinyimagenet_first", (), 3, "Tiny-ImageNet at 32 pixels, 20 of 200 classes"),
}
TEN_SEEDS = {"digits-100": "digits_gain_10_seeds", "fashion-500": "fashion_gain_10_seeds"}
VARIANT_NAMES = {"equal_time": "longer", "label_smoothing": "smoothed"}
"""Names of variants in the names of published figures, where they differ."""


def run_studies(options: argparse.Namespace) -> dict[str, dict]:
    """Run what is missing of each study; returns each ``study.json``."""
    studies = {}
    for name, plan in PLANS.items():
        if options.only and name.partition("-")[0] not in options.only:
            continue
        out, settings = options.work / name, list(plan.settings)
        if plan.recipe == "tinyimagenet_first":
            settings += [f"data.root={options.tinyimagenet}"]
            settings += [f"teachers.teacher.weights={options.teacher}"] if options.teacher else []
        studies[name] = run_study(
            plan.recipe, settings, seeds=plan.num_seeds, jobs=options.jobs, output_dir=out,
            resume=(out / "recipe.yaml").exists(), callbacks=[],
        )  # fmt: skip
    return studies


def make_rows(studies: dict[str, dict]) -> list[dict]:
    """The rows of results/studies.json."""
    rows = []
    for name, study in studies.items():
        data, variants, short = PLANS[name].data, study["results"]["variants"], name.partition("-")[0]
        distilled, is_tiny = variants["distilled"], name == "tinyimagenet"
        if not is_tiny:
            label = TEN_SEEDS.get(name, f"{name.replace('-', '_gain_')}_labels")
            rows.append(gain_row(label, distilled["gain"], data, aim="low > 0" if name in TEN_SEEDS else "report"))
        if is_tiny or name in TEN_SEEDS:
            rows += [
                gain_row(f"{short}_{VARIANT_NAMES.get(variant, variant)}_gain", variants[variant]["gain"], data)
                for variant in variants
                if variant not in ("student_only", "teacher") and (variant != "distilled" or is_tiny)
            ]
            gap_name = f"{short}_first_gap_recovered" if is_tiny else f"{short}_gap_10_seeds"
            rows.append(fraction_row(gap_name, distilled["gap_recovered"], data))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/studies"), help="folder of the trials")
    parser.add_argument("--only", nargs="+", default=[], choices=("digits", "fashion", "tinyimagenet"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--tinyimagenet", default="data/tinyimagenet32", help="folder of the images")
    parser.add_argument("--teacher", help="weights of the Tiny-ImageNet teacher; default: one is trained for each seed")
    options = parse_options(parser, local=("work", "tinyimagenet", "teacher", "jobs"))
    studies = run_studies(options)
    write_pages(studies, options.work)
    write_rows(make_rows(studies))


if __name__ == "__main__":
    main()
