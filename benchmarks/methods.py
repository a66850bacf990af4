"""Studies of distillation methods on CIFAR-10 and Tiny-ImageNet, each by `limbeck study` with one shared cache.

Bundled recipes: cifar10_methods (weight × temperature, then other responses, features and relations at matched gradient
ratios), cifar10_three_teachers, tinyimagenet_fine (relations between similar classes) and tinyimagenet_small (a small
student, with ablations). Teachers are trained by method_teachers.py. Variants are selected on validation; each trial
opens its test split once. Finished trials are reused. Writes docs/results/methods.md and results/methods.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from methods_pages import FEATURES, RESPONSES, write_page
from results import fraction_row, gain_row, make_row, parse_options, write_rows

from limbeck.evaluation import paired_mean_ci
from limbeck.recipe import load_recipe
from limbeck.report.verdict import classify_gain_over_seeds
from limbeck.workflows import study as run_study
from limbeck.workflows._job.job import Job


@dataclass(frozen=True)
class Plan:
    """One study: its recipe, the weight files of its teachers by name, and overrides."""

    recipe: str
    teachers: dict[str, str]
    settings: tuple[str, ...] = ()


VIT = "{use: small_vit, patch_size: 4, width: 64, depth: 4, num_heads: 4, backend: auto}"
METHODS_SETTINGS = (  # data, views and training of cifar10_methods
    "data.val_split=0.05",
    "data.normalize=imagenet",
    "data.augment.num_views=6",
    "stages.0.epochs=6",
    "training={optimizer: {use: SGD, lr: 0.1, momentum: 0.9, weight_decay: 0.0005, nesterov: true}, "
    "scheduler: {use: OneCycleLR, max_lr: 0.1}, batch_size: 64, precision: bf16-mixed}",
    "teachers.resnet.shortcut=padding",
    f"teachers.vit={VIT}",
    "export.to=[]",
    "study={seeds: 3, baselines: [student_only], variants: {only_cnn: {teachers: [cnn]}, "
    "only_resnet: {teachers: [resnet]}, only_vit: {teachers: [vit]}, cnn_and_resnet: {teachers: [cnn, resnet]}, "
    "surest: {ensemble: {use: ConfidenceWeighted, criterion: entropy, temperature: 4}}}}",
)
PLANS = {
    "methods": Plan("cifar10_methods", {"resnet": "resnet"}),
    "three": Plan("cifar10_three_teachers", {"cnn": "cnn", "resnet": "resnet", "vit": "vit"}, METHODS_SETTINGS),
    "fine": Plan("tinyimagenet_fine", {"teacher": "fine"}),
    "small": Plan("tinyimagenet_small", {"wide": "wide", "narrow": "narrow"}),
    "views": Plan(
        "tinyimagenet_small",
        {"wide": "wide", "narrow": "narrow"},
        (
            "data.augment.num_views=6",
            "study={seeds: 3, baselines: [student_only], variants: {one_teacher: {teachers: [wide]}}}",
        ),
    ),
}
GRID = ["distilled", *(f"weight{w}_tau{t}" for w in ("0_9", 3, 9) for t in (1, 2, 4, 8) if (w, t) != ("0_9", 4))]
LATENCY_TURNS, LATENCY_CALLS = 30, 20
CIFAR = "CIFAR-10 (JPEG), 10,000 images, ResNet-8 distilled from ResNet-20, 6 epochs"
FINE = "Tiny-ImageNet at 32 pixels, 20 furred mammals, ResNet-8 distilled from WRN-16-2, 10 epochs"
SMALL = "Tiny-ImageNet at 32 pixels, 20 of 200 classes, ResNet-14, 6 epochs"


def run_studies(options: argparse.Namespace) -> dict[str, dict]:
    """Run what is missing of each study; returns each ``study.json``."""
    studies = {}
    for name in options.only:
        plan, out = PLANS[name], options.work / name
        root = options.cifar10 if plan.recipe.startswith("cifar10") else options.tinyimagenet
        settings = [f"data.root={root}", *plan.settings]
        settings += [f"cache.root={options.cache}"] if options.cache else []
        settings += [
            f"teachers.{teacher}.weights={options.teachers}/{file}.safetensors"
            for teacher, file in plan.teachers.items()
        ]
        studies[name] = run_study(
            plan.recipe, settings, jobs=options.jobs, output_dir=out, resume=(out / "recipe.yaml").exists(),
            callbacks=[],
        )  # fmt: skip
    return studies


def compare_variants(study: dict, work: Path, variant: str, reference: str) -> dict:
    """The difference of two variants in points, paired by seed, with its outcome."""
    accuracies = [
        [100 * _load_record(work, name, seed)["models"][name]["test"]["metrics"]["accuracy"] for seed in study["seeds"]]
        for name in (variant, reference)
    ]
    gain = paired_mean_ci(*accuracies)
    return gain | {"outcome": classify_gain_over_seeds(gain)}


def select_on_validation(study: dict, names: list[str] | tuple[str, ...]) -> str:
    """The variant with the highest mean accuracy on validation."""
    variants = study["results"]["variants"]
    return max(names, key=lambda name: variants[name]["val_accuracy"]["mean"])


def make_rows(studies: dict[str, dict], work: Path) -> tuple[list[dict], dict]:
    """The rows of results/methods.json, and the comparisons and selections that the page shows too."""
    rows, comparisons = [], {}
    if "methods" in studies:
        study = studies["methods"]
        variants, selected = study["results"]["variants"], select_on_validation(study, GRID)
        words = f"{CIFAR}; {selected} of 12, chosen on validation"
        rows.append(gain_row("kd_grid_best_gain", variants[selected]["gain"], words))
        for name in (*RESPONSES, *FEATURES):
            over_kd = comparisons[name] = compare_variants(study, work / "methods", name, "distilled")
            rows += [
                gain_row(f"matched_{name}_gain", variants[name]["gain"], CIFAR),
                gain_row(f"matched_{name}_over_kd", over_kd, CIFAR),
            ]
        comparisons |= {
            f"{name}_over_kd": compare_variants(study, work / "methods", name, "distilled")
            for name in GRID
            if name != "distilled"
        }
        comparisons["best"] = selected
    if "three" in studies:
        study = studies["three"]
        single = comparisons["single"] = select_on_validation(study, ("only_cnn", "only_resnet", "only_vit"))
        for name in ("distilled", "cnn_and_resnet", "surest"):
            comparisons[f"three_{name}"] = compare_variants(study, work / "three", name, single)
        words = f"{CIFAR}; a CNN, a ResNet and a ViT, mean of probabilities, over {single}, chosen on validation"
        rows.append(gain_row("three_teachers_over_best_single", comparisons["three_distilled"], words))
    if "fine" in studies:
        rows += _make_fine_rows(studies["fine"], work / "fine", comparisons)
    if "small" in studies:
        rows += _make_small_rows(studies["small"], work / "small", comparisons)
    if "views" in studies:
        gain = studies["views"]["results"]["variants"]["one_teacher"]["gain"]
        words = f"{SMALL}; one teacher, 6 fresh views per image instead of 4"
        rows.append(gain_row("tinyimagenet_fresh_views_gain", gain, words))
    return rows, comparisons


def _make_fine_rows(study: dict, work: Path, comparisons: dict) -> list[dict]:
    """Relations between similar classes, with the label only and in addition to KD."""
    variants = study["results"]["variants"]
    relation = select_on_validation(study, ("rkd", "sp"))
    with_kd = select_on_validation(study, ("kd_rkd", "kd_sp", "kd_gram"))
    for name in ("kd_rkd", "kd_sp", "kd_gram"):
        comparisons[f"fine_{name}"] = compare_variants(study, work, name, "distilled")
    words = f"{FINE}; {relation} in addition to the label, over the label only"
    return [
        gain_row("fine_grained_relation_gain", variants[relation]["gain"], words),
        gain_row("fine_grained_relation_over_kd", comparisons[f"fine_{with_kd}"], f"{FINE}; {with_kd}, over plain KD"),
        gain_row("fine_grained_kd_gain", variants["distilled"]["gain"], f"{FINE}; plain KD, over the label only"),
    ]


def _make_small_rows(study: dict, work: Path, comparisons: dict) -> list[dict]:
    """The best variants with as many steps as the baseline and with more, and each idea against plain KD."""
    variants = study["results"]["variants"]
    baseline_steps = variants["student_only"]["steps"]
    distilled_names = [name for name, variant in study["variants"].items() if variant["role"] == "distilled"]
    equal_names = [name for name in distilled_names if variants[name]["steps"] == baseline_steps]
    equal = comparisons["equal"] = select_on_validation(study, equal_names)
    selected = comparisons["chosen"] = study["results"]["selected"]["variant"]
    for name in distilled_names:
        if name != "one_teacher":
            comparisons[f"small_{name}"] = compare_variants(study, work, name, "one_teacher")
    comparisons["equal_over_longer"] = compare_variants(study, work, equal, "equal_time")
    comparisons["chosen_over_longer"] = compare_variants(study, work, selected, "equal_time")
    teacher, student = (_load_record(work, name, study["seeds"][0])["models"] for name in ("teacher", selected))
    ratio = teacher["wide"]["parameters"] / student[selected]["parameters"]
    words, more_words = (f"{SMALL}; {name}, chosen on validation" for name in (equal, selected))
    more_words += f", {variants[selected]['steps'] / baseline_steps:.0f} times the steps"
    parameter_row = make_row(
        "tinyimagenet_parameter_ratio", [ratio], unit="times", aim=">= 5", data="WRN-16-4 over ResNet-14", digits=1
    )
    return [
        fraction_row("tinyimagenet_gap_recovered", variants[equal]["gap_recovered"], words, aim=">= 0.62"),
        fraction_row("tinyimagenet_gap_recovered_more_steps", variants[selected]["gap_recovered"], more_words),
        parameter_row | {"low": None, "high": None},
        measure_latency_ratio(work),
        gain_row("tinyimagenet_gain", variants[equal]["gain"], words),
        gain_row("tinyimagenet_over_equal_time", comparisons["equal_over_longer"], words),
        gain_row("tinyimagenet_more_steps_over_equal_time", comparisons["chosen_over_longer"], more_words),
        *(gain_row(f"tinyimagenet_{name.removeprefix('small_')}_over_one_teacher", comparison, SMALL)
          for name, comparison in comparisons.items() if name.startswith("small_")),
    ]  # fmt: skip


def measure_latency_ratio(work: Path) -> dict:
    """Latency of the teacher over that of the student: batch 1, one thread, float32, alternating in one process."""
    job = Job.from_recipe(load_recipe(work / "recipe.yaml", ["study=null"]), work / "dry_run")
    image = job.data.validation.read(torch.arange(1))
    networks = [job.build_teacher("wide").eval(), job.build_student().eval()]
    torch.set_num_threads(1)
    ratios = []
    with torch.no_grad():
        for turn in range(LATENCY_TURNS + 2):
            medians = []
            for network in networks:
                seconds = []
                for _ in range(LATENCY_CALLS):
                    start = time.perf_counter()
                    network(image)
                    seconds.append(time.perf_counter() - start)
                medians.append(statistics.median(seconds))
            if turn >= 2:
                ratios.append(medians[0] / medians[1])
    data = "WRN-16-4 over ResNet-14, one image of 32 pixels, torch in eval mode, alternating"
    return make_row("tinyimagenet_latency_ratio", ratios, unit="times", aim=">= 4", data=data, digits=2)


def _load_record(work: Path, variant: str, seed: int) -> dict:
    return json.loads((work / "trials" / variant / str(seed) / "record.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/methods"), help="folder of the trials")
    parser.add_argument("--only", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--teachers", type=Path, default=Path("runs/method-teachers"), help="of method_teachers.py")
    parser.add_argument("--cache", help="folder of all caches")
    parser.add_argument("--cifar10", default="data/cifar10", help="folder of the images")
    parser.add_argument("--tinyimagenet", default="data/tinyimagenet32", help="folder of the images")
    parser.add_argument("--jobs", type=int, default=1)
    options = parse_options(parser, local=("work", "teachers", "cache", "cifar10", "tinyimagenet", "jobs"))
    studies = run_studies(options)
    rows, comparisons = make_rows(studies, options.work)
    write_page(studies, comparisons, options.work)
    write_rows(rows)


if __name__ == "__main__":
    main()
