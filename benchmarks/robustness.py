"""Is a distilled student calibrated, and robust? Students of finished studies, distilled against alone, by seed.

Reads the trials that `benchmarks/studies.py` left under --work. Calibration is of the test part, as each trial recorded
it at its one opening; attacks, corruptions and noise are measured on pictures of the validation part, so that the test
part stays shut. Differences are paired by seed. Writes benchmarks/results/robustness.json and
docs/results/robustness.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

from results import parsed, row, write

from limbeck.models import load_weights
from limbeck.recipe import load_recipe
from limbeck.workflows._job.job import Job
from limbeck.workflows.evaluate.robustness_api import RobustnessConfig, evaluate_side_by_side
from studies import PLANS

PAGE = Path(__file__).parent.parent / "docs" / "results" / "robustness.md"
# Under 8/255 nothing is left of a network of this kind on coloured pictures, whoever taught it.
EPS = {"digits-100": 8, "fashion-500": 8, "tinyimagenet": 1}
ARMS = ("student_only", "label_smoothing", "distilled")


def kept(folder: Path, seed: int, options: argparse.Namespace, eps: float) -> dict[str, dict[str, float]]:
    """:func:`measured`, once for all."""
    path = folder / f"robustness-{seed}-{options.examples}-{eps:g}.json"
    if not path.exists():
        path.write_text(json.dumps(measured(folder, seed, options, eps)))
    return json.loads(path.read_text())


def measured(folder: Path, seed: int, options: argparse.Namespace, eps: float) -> dict[str, dict[str, float]]:
    """Figures by arm, of one seed."""
    job = Job.from_recipe(load_recipe(folder / "trials" / "distilled" / str(seed) / "recipe.yaml"), folder / "dry_run")
    students = {
        arm: load_weights(job.build_student(), folder / "trials" / arm / str(seed) / "student.safetensors").eval()
        for arm in ARMS
    }
    asked = RobustnessConfig(
        checks=("attacks", "corruptions", "noise"),
        attacks=("fgsm", "pgd"),
        eps=eps / 255,
        num_samples=options.examples,
        seed=seed,
    )
    found = evaluate_side_by_side(students, job.data, job.task, job.data.validation, config=asked)["models"]
    told = {}
    for arm in ARMS:
        record = json.loads((folder / "trials" / arm / str(seed) / "record.json").read_text())
        test = record["models"][arm]["test"]["metrics"]
        told[arm] = {"accuracy": 100 * test["accuracy"], "ece": test["ece"], "nll": test["nll"], **flat(found[arm])}
    return told


def flat(one: dict) -> dict[str, float]:
    """The figures of a network out of what ``evaluate_side_by_side`` gives, in per cent."""
    return {
        "clean": 100 * one["clean_accuracy"], "fgsm": 100 * one["attacks"]["fgsm"], "pgd": 100 * one["attacks"]["pgd"],
        "corruptions": 100 * one["corruptions"]["mean"],
        "noise": 100 * fmean(one["noise"]["accuracy"]),
    }  # fmt: skip


FIGURES = {
    "accuracy": ("accuracy, test", "%"), "ece": ("ECE, test", ""), "nll": ("NLL, test", "nats"),
    "clean": ("accuracy, validation pictures", "%"), "fgsm": ("under FGSM", "%"), "pgd": ("under PGD-20", "%"),
    "corruptions": ("mean of 15 corruptions × 5 severities", "%"), "noise": ("mean over the noise sweep", "%"),
}  # fmt: skip


def rows_of(name: str, seeds: list[dict[str, dict[str, float]]]) -> list[dict]:
    """Each figure's change, distilled minus alone, paired by seed."""
    short, made = name.partition("-")[0], []
    names = {"ece": "ece_change", "pgd": "attacked_accuracy_change", "corruptions": "corrupted_accuracy_change",
             "noise": "noisy_accuracy_change"}  # fmt: skip
    for figure, published in names.items():
        values = [one["distilled"][figure] - one["student_only"][figure] for one in seeds]
        told = PLANS[name].data + (f", eps {EPS[name]}/255" if figure == "pgd" else "")
        unit = "ECE" if figure == "ece" else "points"
        made.append(
            row(f"{short}_{published}", values, unit=unit, aim="report", data=told, digits=4 if unit == "ECE" else 2)
        )
        if short == "fashion" and figure in ("ece", "pgd"):
            made.append(made[-1] | {"name": published})
    return made


def page(found: dict[str, list[dict]]) -> str:
    lines = [
        "# Calibration and robustness of distilled students", "",
        "Written by `python benchmarks/robustness.py` from the trials of the studies of [digits](digits.md), "
        "[Fashion-MNIST](fashion.md) and [Tiny-ImageNet](tinyimagenet.md). Calibration is of the sealed test part, as "
        "each trial recorded it; attacks, corruptions and noise are measured on validation pictures. Attacks are "
        "L∞, on pixels in 0..1, with the normalisation inside the network; a change is distilled minus alone, "
        "paired by seed, with Student's 95 % interval. What each figure is: [robustness](../robustness.md).", "",
    ]  # fmt: skip
    for name, seeds in found.items():
        lines += [f"## {PLANS[name].data}", "", f"{len(seeds)} seeds; ε = {EPS[name]}/255.", ""]
        lines += [
            "| figure | alone | label smoothing | distilled | change | 95 % interval |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for figure, (title, unit) in FIGURES.items():
            digits = 1 if unit == "%" else 3
            means = [f"{fmean(one[arm][figure] for one in seeds):.{digits}f}" for arm in ARMS]
            one = row("", [s["distilled"][figure] - s["student_only"][figure] for s in seeds], unit="", aim="", data="")
            ends = "–" if one["low"] is None else f"{one['low']:+.{digits}f} to {one['high']:+.{digits}f}"
            unit = f", {unit}" if unit else ""
            lines.append(f"| {title}{unit} | {' | '.join(means)} | {one['value']:+.{digits}f} | {ends} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/studies"), help="where studies.py kept its trials")
    parser.add_argument("--examples", type=int, default=500, help="pictures of the validation part")
    parser.add_argument("--only", nargs="+", choices=tuple(EPS), help="some of the studies")
    options = parsed(parser, places=("work",))
    found: dict[str, list[dict]] = {}
    for name in options.only or EPS:
        folder = options.work / name
        if (folder / "study.json").exists():
            seeds = json.loads((folder / "study.json").read_text())["seeds"]
            found[name] = [kept(folder, seed, options, EPS[name]) for seed in seeds]
            print(f"{name}: {len(seeds)} seeds", flush=True)
    rows = [one for name, seeds in found.items() for one in rows_of(name, seeds)]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(found))
    write(rows, seeds=found)


if __name__ == "__main__":
    main()
