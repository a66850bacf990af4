"""Calibration and robustness of distilled students: students of finished studies, distilled minus baseline, by seed.

Reads the trials that `benchmarks/studies.py` left under --work. Calibration is of the test split, as recorded by each
trial; attacks, corruptions and noise are measured on validation images, so the test split is not read again.
Differences are paired by seed. Writes benchmarks/results/robustness.json and docs/results/robustness.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

from results import make_row, parse_options, write_rows

from limbeck.models import load_weights
from limbeck.recipe import load_recipe
from limbeck.workflows._job.job import Job
from limbeck.workflows.evaluate.robustness import RobustnessConfig, evaluate_side_by_side
from studies import PLANS

PAGE = Path(__file__).parent.parent / "docs" / "results" / "robustness.md"
# At 8/255 no small network keeps any accuracy on color images, whatever its teacher.
EPS = {"digits-100": 8, "fashion-500": 8, "tinyimagenet": 1}
VARIANTS = ("student_only", "label_smoothing", "distilled")
METRICS = {
    "accuracy": ("accuracy, test", "%"), "ece": ("ECE, test", ""), "nll": ("NLL, test", "nats"),
    "clean": ("accuracy, validation images", "%"), "fgsm": ("under FGSM", "%"), "pgd": ("under PGD-20", "%"),
    "corruptions": ("mean of 15 corruptions × 5 severities", "%"), "noise": ("mean over the noise sweep", "%"),
}  # fmt: skip
ROW_NAMES = {
    "ece": "ece_change", "pgd": "attacked_accuracy_change", "corruptions": "corrupted_accuracy_change",
    "noise": "noisy_accuracy_change",
}  # fmt: skip


def load_or_measure(folder: Path, seed: int, num_samples: int, eps: float) -> dict[str, dict[str, float]]:
    """:func:`measure`, stored in ``folder``."""
    path = folder / f"robustness-{seed}-{num_samples}-{eps:g}.json"
    if not path.exists():
        path.write_text(json.dumps(measure(folder, seed, num_samples, eps)))
    return json.loads(path.read_text())


def measure(folder: Path, seed: int, num_samples: int, eps: float) -> dict[str, dict[str, float]]:
    """The metrics of each variant, of one seed."""
    trials = {name: folder / "trials" / name / str(seed) for name in VARIANTS}
    job = Job.from_recipe(load_recipe(trials["distilled"] / "recipe.yaml"), folder / "dry_run")
    students = {
        name: load_weights(job.build_student(), trial / "student.safetensors").eval() for name, trial in trials.items()
    }
    config = RobustnessConfig(
        checks=("attacks", "corruptions", "noise"), attacks=("fgsm", "pgd"), eps=eps / 255, num_samples=num_samples,
        seed=seed,
    )  # fmt: skip
    models = evaluate_side_by_side(students, job.data, job.task, job.data.validation, config=config)["models"]
    metrics = {}
    for name, trial in trials.items():
        test = json.loads((trial / "record.json").read_text())["models"][name]["test"]["metrics"]
        model = models[name]
        metrics[name] = {
            "accuracy": 100 * test["accuracy"], "ece": test["ece"], "nll": test["nll"],
            "clean": 100 * model["clean"], "fgsm": 100 * model["attacks"]["fgsm"],
            "pgd": 100 * model["attacks"]["pgd"], "corruptions": 100 * model["corruptions"]["mean"],
            "noise": 100 * fmean(model["noise"]["values"]),
        }  # fmt: skip
    return metrics


def make_rows(name: str, seeds: list[dict[str, dict[str, float]]]) -> list[dict]:
    """The change of each metric, distilled minus baseline, paired by seed."""
    study, rows = name.partition("-")[0], []
    for metric, row_name in ROW_NAMES.items():
        data = PLANS[name].data + (f", eps {EPS[name]}/255" if metric == "pgd" else "")
        unit, digits = ("ECE", 4) if metric == "ece" else ("points", 2)
        rows.append(
            make_row(f"{study}_{row_name}", _changes(seeds, metric), unit=unit, aim="report", data=data, digits=digits)
        )
        if study == "fashion" and metric in ("ece", "pgd"):
            rows.append(rows[-1] | {"name": row_name})
    return rows


def write_page(studies: dict[str, list[dict]]) -> None:
    """Write docs/results/robustness.md with a table for each study."""
    lines = [
        "# Calibration and robustness of distilled students", "",
        "Written by `python benchmarks/robustness.py` from the trials of the studies of [digits](digits.md), "
        "[Fashion-MNIST](fashion.md) and [Tiny-ImageNet](tinyimagenet.md). Calibration is of the held-out test split, "
        "as each trial recorded it; attacks, corruptions and noise are measured on validation images. Attacks are "
        "L∞, on pixels in 0..1, with the normalization inside the network; a change is distilled minus baseline, "
        "paired by seed, with Student's 95 % interval. The metrics: [robustness](../robustness.md).", "",
    ]  # fmt: skip
    for name, seeds in studies.items():
        lines += [
            f"## {PLANS[name].data}", "", f"{len(seeds)} seeds; ε = {EPS[name]}/255.", "",
            "| metric | baseline | label smoothing | distilled | change | 95 % interval |",
            "|---|---:|---:|---:|---:|---:|",
        ]  # fmt: skip
        for metric, (title, unit) in METRICS.items():
            digits = 1 if unit == "%" else 3
            means = [f"{fmean(seed[variant][metric] for seed in seeds):.{digits}f}" for variant in VARIANTS]
            row = make_row("", _changes(seeds, metric), unit="", aim="", data="")
            interval = "–" if row["low"] is None else f"{row['low']:+.{digits}f} to {row['high']:+.{digits}f}"
            heading = f"{title}, {unit}" if unit else title
            lines.append(f"| {heading} | {' | '.join(means)} | {row['value']:+.{digits}f} | {interval} |")
        lines.append("")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines))


def _changes(seeds: list[dict[str, dict[str, float]]], metric: str) -> list[float]:
    return [seed["distilled"][metric] - seed["student_only"][metric] for seed in seeds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/studies"), help="folder of the trials of studies.py")
    parser.add_argument("--num-samples", type=int, default=500, help="validation images")
    parser.add_argument("--only", nargs="+", choices=tuple(EPS), help="some of the studies")
    options = parse_options(parser, local=("work",))
    studies: dict[str, list[dict]] = {}
    for name in options.only or EPS:
        folder = options.work / name
        if (folder / "study.json").exists():
            seeds = json.loads((folder / "study.json").read_text())["seeds"]
            studies[name] = [load_or_measure(folder, seed, options.num_samples, EPS[name]) for seed in seeds]
            print(f"{name}: {len(seeds)} seeds", flush=True)
    write_page(studies)
    write_rows([row for name, seeds in studies.items() for row in make_rows(name, seeds)], seeds=studies)


if __name__ == "__main__":
    main()
