"""Which form of knowledge helps? Studies on CIFAR-10 and Tiny-ImageNet, each by `limbeck study` with one shared cache.

The recipes come along: cifar10_methods (weight × temperature, then other responses, features and relations at matched
gradient ratios), cifar10_three_teachers, tinyimagenet_fine (relations between close classes) and tinyimagenet_small
(the headline, and what each idea gives it). Teachers come from method_teachers.py. Arms are chosen on validation; each
test part is opened once a trial. A second call only counts. Writes docs/results/methods.md and results/methods.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from methods_pages import write_page
from methods_ratios import latency_ratio
from results import parsed, row, write
from study_figures import gain, share

from limbeck.evaluation import paired_mean_ci
from limbeck.report import classify_gain_over_seeds
from limbeck.workflows import study


@dataclass(frozen=True)
class Plan:
    """One study: its recipe, the teachers' weights by name, and what else is changed of it."""

    recipe: str
    teachers: dict[str, str]
    settings: tuple[str, ...] = ()


VIT = "{use: small_vit, patch_size: 4, width: 64, depth: 4, num_heads: 4, backend: auto}"
LIKE_METHODS = (  # the data, views and training of cifar10_methods
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
    "three": Plan("cifar10_three_teachers", {"cnn": "cnn", "resnet": "resnet", "vit": "vit"}, LIKE_METHODS),
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
RESPONSES = ("dkd", "dist", "standardised", "learned_tau", "loss_adaptive_tau")
BESIDE = ("at", "hint", "gram", "rkd", "sp", "crd", "review")
CIFAR = "CIFAR-10 (JPEG), 10,000 pictures, ResNet-8 taught by ResNet-20, 6 epochs"
FINE = "Tiny-ImageNet at 32 pixels, 20 furred mammals, ResNet-8 taught by WRN-16-2, 10 epochs"
SMALL = "Tiny-ImageNet at 32 pixels, 20 of 200 classes, ResNet-14, 6 epochs"


def done(options: argparse.Namespace) -> dict[str, dict]:
    """What ``study.json`` of each plan holds, after running what is missing."""
    found = {}
    for name in options.only:
        plan, out = PLANS[name], options.work / name
        root = options.cifar10 if plan.recipe.startswith("cifar10") else options.tinyimagenet
        settings = [f"data.root={root}", *plan.settings]
        settings += [f"cache.root={options.cache}"] if options.cache else []
        settings += [
            f"teachers.{one}.weights={options.teachers}/{file}.safetensors" for one, file in plan.teachers.items()
        ]
        found[name] = study(
            plan.recipe,
            settings,
            jobs=options.jobs,
            output_dir=out,
            resume=(out / "recipe.yaml").exists(),
            callbacks=[],
        )
    return found


def against(one: dict, work: Path, arm: str, other: str) -> dict:
    """The difference of two arms in points, paired by seed, and what it means."""
    tops = [
        [100 * _record(work, name, seed)["models"][name]["test"]["metrics"]["accuracy"] for seed in one["seeds"]]
        for name in (arm, other)
    ]
    gain = paired_mean_ci(*tops)
    return gain | {"outcome": classify_gain_over_seeds(gain)}


def best(one: dict, arms: list[str] | tuple[str, ...]) -> str:
    """The arm of the best mean accuracy on validation."""
    found = one["results"]["variants"]
    return max(arms, key=lambda name: found[name]["val_accuracy"]["mean"])


def figures(found: dict[str, dict], work: Path) -> tuple[list[dict], dict]:
    """The rows by the names under which they are published, and the comparisons that the page shows too."""
    rows, told = [], {}
    if "methods" in found:
        one = found["methods"]
        arms = one["results"]["variants"]
        top = best(one, GRID)
        rows.append(gain("kd_grid_best_gain", arms[top]["gain"], f"{CIFAR}; {top} of 12, chosen on validation"))
        for arm in (*RESPONSES, *BESIDE):
            over = told[arm] = against(one, work / "methods", arm, "distilled")
            rows += [gain(f"matched_{arm}_gain", arms[arm]["gain"], CIFAR), gain(f"matched_{arm}_over_kd", over, CIFAR)]
        told |= {
            f"{arm}_over_kd": against(one, work / "methods", arm, "distilled") for arm in GRID if arm != "distilled"
        }
        told["best"] = top
    if "three" in found:
        one, single = found["three"], best(found["three"], ("only_cnn", "only_resnet", "only_vit"))
        for arm in ("distilled", "cnn_and_resnet", "surest"):
            told[f"three_{arm}"] = against(one, work / "three", arm, single)
        told["single"] = single
        words = f"{CIFAR}; a CNN, a ResNet and a ViT, mean of probabilities, over {single}, chosen on validation"
        rows.append(gain("three_teachers_over_best_single", told["three_distilled"], words))
    if "fine" in found:
        one = found["fine"]
        alone, beside = best(one, ("rkd", "sp")), best(one, ("kd_rkd", "kd_sp", "kd_gram"))
        arms = one["results"]["variants"]
        told |= {"fine_alone": alone, "fine_beside": beside}
        told |= {f"fine_{arm}": against(one, work / "fine", arm, "distilled") for arm in ("kd_rkd", "kd_sp", "kd_gram")}
        rows += [
            gain(
                "fine_grained_relation_gain",
                arms[alone]["gain"],
                f"{FINE}; {alone} beside the label, over the label alone",
            ),
            gain("fine_grained_relation_over_kd", told[f"fine_{beside}"], f"{FINE}; {beside}, over plain KD"),
            gain("fine_grained_kd_gain", arms["distilled"]["gain"], f"{FINE}; plain KD, over the label alone"),
        ]
    if "small" in found:
        rows += small(found["small"], work / "small", told)
    if "views" in found:
        arms = found["views"]["results"]["variants"]
        words = f"{SMALL}; one teacher, 6 fresh views a picture in place of 4"
        rows.append(gain("tinyimagenet_fresh_views_gain", arms["one_teacher"]["gain"], words))
    return rows, told


def small(one: dict, work: Path, told: dict) -> list[dict]:
    """The headline, of equally many steps as alone and of more; and each idea against the recipe it changes."""
    arms = one["results"]["variants"]
    listening = [name for name, arm in one["variants"].items() if arm["role"] == "distilled"]
    equal = told["equal"] = best(
        one, [name for name in listening if arms[name]["steps"] == arms["student_only"]["steps"]]
    )
    chosen = told["chosen"] = one["results"]["selected"]["variant"]
    for arm in listening:
        if arm != "one_teacher":
            told[f"small_{arm}"] = against(one, work, arm, "one_teacher")
    told["equal_over_longer"] = against(one, work, equal, "equal_time")
    told["chosen_over_longer"] = against(one, work, chosen, "equal_time")
    teacher, student = (_record(work, arm, one["seeds"][0])["models"] for arm in ("teacher", chosen))
    ratio = teacher["wide"]["parameters"] / student[chosen]["parameters"]
    words, more = (f"{SMALL}; {arm}, chosen on validation" for arm in (equal, chosen))
    more += f", {arms[chosen]['steps'] / arms['alone']['steps']:.0f} times the steps"
    parts = row(
        "tinyimagenet_parameter_ratio", [ratio], unit="times", aim=">= 5", data="WRN-16-4 over ResNet-14", digits=1
    )
    return [
        share("tinyimagenet_gap_recovered", arms[equal]["gap_recovered"], words, aim=">= 0.62"),
        share("tinyimagenet_gap_recovered_more_steps", arms[chosen]["gap_recovered"], more),
        parts | {"low": None, "high": None},
        latency_ratio(one, work),
        gain("tinyimagenet_gain", arms[equal]["gain"], words),
        gain("tinyimagenet_over_equal_time", told["equal_over_longer"], words),
        gain("tinyimagenet_more_steps_over_equal_time", told["chosen_over_longer"], more),
        *(gain(f"tinyimagenet_{name.removeprefix('small_')}_over_one_teacher", found, SMALL)
          for name, found in told.items() if name.startswith("small_")),
    ]  # fmt: skip


def _record(work: Path, arm: str, seed: int) -> dict:
    return json.loads((work / "trials" / arm / str(seed) / "record.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/methods"), help="where trials are kept")
    parser.add_argument("--only", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--teachers", type=Path, default=Path("runs/method-teachers"), help="of method_teachers.py")
    parser.add_argument("--cache", help="the folder of all caches")
    parser.add_argument("--cifar10", default="data/cifar10", help="the folder")
    parser.add_argument("--tinyimagenet", default="data/tinyimagenet32", help="the folder")
    parser.add_argument("--jobs", type=int, default=1)
    options = parsed(parser, places=("work", "teachers", "cache", "cifar10", "tinyimagenet", "jobs"))
    found = done(options)
    rows, told = figures(found, options.work)
    write_page(found, told, options.work)
    write(rows)


if __name__ == "__main__":
    main()
