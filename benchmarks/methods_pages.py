"""Writes docs/results/methods.md from the studies of methods.py; only these sentences are typed by hand."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "results" / "methods.md"
WEIGHTS, TEMPERATURES = ("0_9", "3", "9"), (1, 2, 4, 8)
OUTCOMES = {
    "improves": "improves", "degrades": "degrades", "inconclusive": "no significant difference", "unknown": "unknown",
}  # fmt: skip
TITLES = {
    "dkd": "DKD",
    "dist": "DIST",
    "standardised": "logit standardization",
    "learned_tau": "learned temperature",
    "loss_adaptive_tau": "loss-adaptive temperature",
    "at": "attention transfer (AT)",
    "hint": "hint (FitNets)",
    "gram": "Gram matrix",
    "rkd": "RKD, distance and angle",
    "sp": "similarity-preserving (SP)",
    "crd": "CRD",
    "review": "knowledge review, two stages",
}
RESPONSES = ("dkd", "dist", "standardised", "learned_tau", "loss_adaptive_tau")
FEATURES = ("at", "hint", "gram", "rkd", "sp", "crd", "review")
SMALL = {
    "distilled": "a second teacher (WRN-16-2), mean of probabilities", "heavier": "weight 3 at τ 8",
    "no_label": "no hard label", "dist": "DIST instead of KD", "relation": "RKD in addition to KD",
    "hint": "a hint in addition to KD (FitNets)",
    "twice_as_long": "twice as long (12 epochs)", "together": "two teachers, a hint, 12 epochs",
}  # fmt: skip
INTRO = """# Comparison of distillation methods

Written by `python benchmarks/methods.py` from finished studies (`limbeck study`), with the teachers of
`benchmarks/method_teachers.py`. Three seeds each; one teacher, one split and one pool of views serve all seeds, so a
seed changes the initial weights of the student and the order of the images, and intervals cover no other variation.
Each interval is the wider of bootstrap and Student's t at each end, paired by seed; a variant *improves* or *degrades*
if both lie on one side of zero. With this many variants some would look good by chance: these verdicts are not
corrected, and `study.json` holds Holm's correction. Trainings are short, so that a study ends within the hour, which is
unfavorable to methods that need long training. All loss weights but those of the grid were set by the gradient norm in
the first two epochs (`benchmarks/matching.py`; with logit standardization the gradient kept shrinking at such a weight,
so its weight was set by the gradient norm over a whole training), and nothing was tuned on a test split.
"""


def write_page(studies: dict[str, dict], comparisons: dict, work: Path) -> None:
    """Write the page with a section for each study that is present."""
    sections = [INTRO]
    if "methods" in studies:
        sections += [
            _grid_section(studies["methods"], comparisons),
            *_method_sections(studies["methods"], comparisons, work / "methods"),
        ]
    if "three" in studies:
        sections.append(_three_teachers_section(studies["three"], comparisons))
    if "fine" in studies:
        sections.append(_fine_section(studies["fine"], comparisons, work / "fine"))
    if "small" in studies:
        sections.append(_small_section(studies["small"], comparisons, studies.get("views")))
    sections.append(_summary(studies, comparisons))
    PAGE.write_text("\n\n".join(section.strip() for section in sections) + "\n")


def _grid_section(study: dict, comparisons: dict) -> str:
    variants = study["results"]["variants"]
    lines = [
        "## Weight and temperature of plain distillation", "",
        f"CIFAR-10 (JPEG), 10,000 images, 6 epochs: ResNet-20 ({_accuracy(variants['teacher'])} %) distilled into "
        f"ResNet-8, which reaches {_accuracy(variants['student_only'])} % without a teacher, "
        f"{_accuracy(variants['label_smoothing'])} % with label smoothing and {_accuracy(variants['equal_time'])} % at "
        f"equal wall time ({study['time_ratio']:.2f} times the steps). The teacher was published trained on all 50,000 "
        "images without JPEG and fine-tuned here; it has seen the validation images, the student has not. In addition "
        "to 0.1 · cross-entropy, gain over the baseline in points:", "",
        "| weight | " + " | ".join(f"τ = {temperature}" for temperature in TEMPERATURES) + " |",
        "|---" * (len(TEMPERATURES) + 1) + "|",
    ]  # fmt: skip
    for weight in WEIGHTS:
        texts = []
        for temperature in TEMPERATURES:
            name = "distilled" if (weight, temperature) == ("0_9", 4) else f"weight{weight}_tau{temperature}"
            text = _gain(variants[name]["gain"])
            texts.append(f"**{text}**" if name == comparisons["best"] else text)
        lines.append(f"| {weight.replace('_', '.')} | " + " | ".join(texts) + " |")
    outcomes = {
        name.removesuffix("_over_kd"): comparison["outcome"]
        for name, comparison in comparisons.items()
        if name.endswith("_over_kd") and comparison["outcome"] in ("improves", "degrades")
    }
    words = ", ".join(f"{_setting(name)} {outcome}" for name, outcome in outcomes.items()) or "none"
    lines += [
        "", "Bold: the best of the twelve on validation. Significant differences to the usual 0.9 at τ = 4: "
        f"{words}.",
    ]  # fmt: skip
    return "\n".join(lines)


def _method_sections(study: dict, comparisons: dict, work: Path) -> list[str]:
    responses = [
        "## Other responses at a matched gradient norm", "",
        "Instead of KD with weight 0.9 at τ = 4, each with a weight at which its gradient norm equals that of KD. "
        "*Gradient ratio* is what was reached: the median over the training of its gradient norm over that of 0.1 · "
        f"cross-entropy (plain KD: {_gradient_ratio(work, 'distilled', study)}). CPU time: the minimum over seeds, as "
        "the first fills the cache.", "", *_method_table(study, comparisons, RESPONSES, work),
    ]  # fmt: skip
    features = [
        "## Features and relations in addition to plain distillation", "",
        "Each loss in addition to 0.1 · cross-entropy + 0.9 · KD at τ = 4, at about half the gradient norm of KD.",
        "", *_method_table(study, comparisons, FEATURES, work),
    ]  # fmt: skip
    return ["\n".join(responses), "\n".join(features)]


def _method_table(study: dict, comparisons: dict, names: tuple[str, ...], work: Path) -> list[str]:
    variants = study["results"]["variants"]
    kd_seconds = _cpu_seconds(work, "distilled", study["seeds"])
    lines = [
        "| method | accuracy, % | gain over baseline | over plain KD | verdict | gradient ratio | CPU time / KD |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    for name in ("distilled", *names):
        variant, over_kd = variants[name], comparisons.get(name)
        lines.append(
            f"| {TITLES.get(name, 'plain KD')} | {_accuracy(variant)} | {_gain(variant['gain'])} | "
            f"{_gain(over_kd) if over_kd else '–'} | {OUTCOMES[over_kd['outcome']] if over_kd else '–'} | "
            f"{_gradient_ratio(work, name, study)} | {_cpu_seconds(work, name, study['seeds']) / kd_seconds:.1f} × |"
        )
    return lines


def _three_teachers_section(study: dict, comparisons: dict) -> str:
    variants = study["results"]["variants"]
    titles = {
        "only_cnn": "CNN", "only_resnet": "ResNet", "only_vit": "ViT",
        "cnn_and_resnet": "CNN and ResNet, mean of probabilities", "distilled": "all three, mean of probabilities",
        "surest": "all three, weighted per row by confidence",
    }  # fmt: skip
    lines = [
        "## Three teachers of different architecture", "",
        "The same student, images and length: a CNN and a small ViT, trained here on the 47,500 training images, in "
        "addition to the ResNet. The best single teacher was chosen on validation.", "",
        "| teachers | accuracy, % | gain over baseline | over the best single | verdict |",
        "|---|---:|---:|---:|---|",
    ]  # fmt: skip
    for name, title in titles.items():
        comparison = comparisons.get(f"three_{name}")
        note = "best single" if name == comparisons["single"] else "–"
        lines.append(
            f"| {title} | {_accuracy(variants[name])} | {_gain(variants[name]['gain'])} | "
            f"{_gain(comparison) if comparison else '–'} | {OUTCOMES[comparison['outcome']] if comparison else note} |"
        )
    return "\n".join(lines)


def _fine_section(study: dict, comparisons: dict, work: Path) -> str:
    variants = study["results"]["variants"]
    titles = {
        "equal_time": f"baseline, equal wall time ({study['time_ratio']:.2f} times the steps)",
        "rkd": "label + RKD",
        "sp": "label + SP",
        "distilled": "plain KD",
        "kd_rkd": "KD + RKD",
        "kd_sp": "KD + SP",
        "kd_gram": "KD + Gram",
    }
    lines = [
        "## Relations between similar classes", "",
        "Tiny-ImageNet at 32 pixels, 20 furred mammals (dogs, cats, hooves, apes), 9,000 images, 10 epochs: WRN-16-2 "
        f"({_accuracy(variants['teacher'])} %) distilled into ResNet-8 (baseline {_accuracy(variants['student_only'])} "
        "%); 1,000 test images. Published claims for relations on fine-grained classes are +3 to +5 points.", "",
        "| variant | accuracy, % | gain over baseline | over plain KD | verdict over baseline | gradient ratio of the "
        "relation |",
        "|---|---:|---:|---:|---|---:|",
    ]  # fmt: skip
    for name, title in titles.items():
        variant, over_kd = variants[name], comparisons.get(f"fine_{name}")
        has_relation = name not in ("equal_time", "distilled")
        lines.append(
            f"| {title} | {_accuracy(variant)} | {_gain(variant['gain'])} | {_gain(over_kd) if over_kd else '–'} | "
            f"{OUTCOMES[variant['verdict']['outcome']]} | "
            f"{_gradient_ratio(work, name, study, without=('kd',)) if has_relation else '–'} |"
        )
    return "\n".join(lines)


def _small_section(study: dict, comparisons: dict, views: dict | None) -> str:
    variants, equal, selected = study["results"]["variants"], comparisons["equal"], comparisons["chosen"]
    times = variants[selected]["steps"] / variants["student_only"]["steps"]
    plain = variants["one_teacher"]
    lines = [
        "## A small student, and the gain of each idea",
        "",
        f"Tiny-ImageNet at 32 pixels, every tenth class, 6 epochs: WRN-16-4 ({_accuracy(variants['teacher'])} %) "
        f"distilled into ResNet-14 (baseline {_accuracy(variants['student_only'])} %, at equal wall time "
        f"{_accuracy(variants['equal_time'])} %, {study['time_ratio']:.2f} times the steps). Of the variants with as "
        f"many steps as the baseline, `{equal}` is the best on validation: {_accuracy(variants[equal])} %, "
        f"{_gap(variants[equal])} of the gap; the reference from the literature is 62 %. Over equal wall time it is "
        f"{_gain(comparisons['equal_over_longer'])} points, {_outcome(comparisons['equal_over_longer'])}. Of all "
        f"variants it is `{selected}`, with {times:.0f} times the steps: {_accuracy(variants[selected])} %, "
        f"{_gap(variants[selected])} of the gap, and {_gain(comparisons['chosen_over_longer'])} points over equal wall "
        f"time, {_outcome(comparisons['chosen_over_longer'])}.",
        "",
        "| change to plain KD with one teacher | accuracy, % | gain over baseline | of the gap | over plain KD "
        "| verdict |",
        "|---|---:|---:|---:|---:|---|",
        f"| none: 0.1 · label + 0.9 · KD at τ 4 | {_accuracy(plain)} | {_gain(plain['gain'])} | {_gap(plain)} | – "
        "| – |",
    ]
    for name, title in SMALL.items():
        variant, comparison = variants[name], comparisons[f"small_{name}"]
        lines.append(
            f"| {title} | {_accuracy(variant)} | {_gain(variant['gain'])} | {_gap(variant)} | {_gain(comparison)} | "
            f"{_outcome(comparison)} |"
        )
    if views is not None:
        baseline, plain = (views["results"]["variants"][name] for name in ("student_only", "one_teacher"))
        lines += [
            "", f"With 6 fresh views per image instead of a pool of 4, the baseline reaches {_accuracy(baseline)} % "
            f"and plain KD with one teacher {_accuracy(plain)} %: {_gain(plain['gain'])} points, {_gap(plain)} "
            "of the gap.",
        ]  # fmt: skip
    return "\n".join(lines)


def _summary(studies: dict[str, dict], comparisons: dict) -> str:
    """One list for each outcome: each method against its reference."""
    titles: dict[str, list[str]] = {"improves": [], "degrades": [], "inconclusive": [], "unknown": []}
    if "methods" in studies:
        variants = studies["methods"]["results"]["variants"]
        names = {"equal_time": "more steps", "label_smoothing": "label smoothing", "distilled": "plain KD"}
        for name, title in names.items():
            titles[variants[name]["verdict"]["outcome"]].append(f"{title} over the baseline (CIFAR-10)")
        for name in (*RESPONSES, *FEATURES):
            titles[comparisons[name]["outcome"]].append(f"{TITLES[name]} over plain KD (CIFAR-10)")
    if "three" in studies:
        for name, title in (
            ("distilled", "the mean of three teachers"), ("cnn_and_resnet", "the mean of CNN and ResNet"),
            ("surest", "three teachers weighted by confidence"),
        ):  # fmt: skip
            titles[comparisons[f"three_{name}"]["outcome"]].append(f"{title} over the best single one (CIFAR-10)")
    if "fine" in studies:
        variants = studies["fine"]["results"]["variants"]
        for name, title in (("rkd", "RKD"), ("sp", "SP"), ("distilled", "plain KD")):
            titles[variants[name]["verdict"]["outcome"]].append(f"{title} over the label only (similar classes)")
        for name, title in (("kd_rkd", "RKD"), ("kd_sp", "SP"), ("kd_gram", "Gram")):
            titles[comparisons[f"fine_{name}"]["outcome"]].append(f"KD + {title} over KD (similar classes)")
    if "small" in studies:
        for name, title in SMALL.items():
            outcome = comparisons[f"small_{name}"]["outcome"]
            titles[outcome].append(f"{title}, over plain KD with one teacher (Tiny-ImageNet)")
    lines = ["## Summary", ""]
    for outcome, heading in (
        ("improves", "Improves"), ("degrades", "Degrades"),
        ("inconclusive", "No significant difference with three seeds"),
    ):  # fmt: skip
        lines.append(f"- **{heading}**: {'; '.join(titles[outcome]) or 'nothing'}.")
    return "\n".join(lines)


def _accuracy(variant: dict) -> str:
    return f"{100 * variant['accuracy']['mean']:.1f}"


def _gain(gain: dict) -> str:
    low, high = min(gain["low"], gain["t_low"]), max(gain["high"], gain["t_high"])
    return f"{gain['mean']:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")


def _outcome(comparison: dict) -> str:
    return OUTCOMES[comparison["outcome"]]


def _gap(variant: dict) -> str:
    gap = variant["gap_recovered"]
    return f"{100 * gap['fraction']:.0f} % ({100 * gap['low']:.0f} to {100 * gap['high']:.0f})".replace("-", "−")


def _cpu_seconds(work: Path, name: str, seeds: list[int]) -> float:
    """The minimum over seeds, since the seed that fills a cache also computes the teacher outputs of the others."""
    records = (json.loads((work / "trials" / name / str(seed) / "record.json").read_text()) for seed in seeds)
    return min(record["models"][name]["resources"]["cpu_seconds"] for record in records)


def _gradient_ratio(work: Path, name: str, study: dict, without: tuple[str, ...] = ()) -> str:
    """By loss, the gradient norm over that of the weighted supervised loss, the median over all measurements."""
    values: dict[str, list[float]] = {}
    for seed in study["seeds"]:
        with (work / "trials" / name / str(seed) / "metrics.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                for column, value in row.items():
                    if column.startswith("grad_norm_ratio/") and value:
                        values.setdefault(column.partition("/")[2], []).append(float(value))
    ratios = {loss: statistics.median(values[loss]) for loss in values if loss not in without}
    if set(ratios) > {"kd"}:
        ratios.pop("kd")
    texts = (
        f"{loss.replace('at_', '')} {ratio:.2g}" if len(ratios) > 1 else f"{ratio:.2g}"
        for loss, ratio in ratios.items()
    )
    return ", ".join(texts) or "–"


def _setting(name: str) -> str:
    weight, _, temperature = name.removeprefix("weight").partition("_tau")
    return f"{weight.replace('_', '.')} at τ = {temperature}"
