"""Writes the pages of docs/results from the studies of studies.py; only these sentences are typed by hand."""

from __future__ import annotations

from pathlib import Path

from limbeck.report.compare.tables import to_markdown
from limbeck.workflows.compare.run import build_comparison

PAGES = Path(__file__).parent.parent / "docs" / "results"
TITLES = {
    "digits": "Digits: a small CNN, 100 labels, and 978 unlabeled images",
    "fashion": "Fashion-MNIST: a student without convolutions, 500 labels, and 11,500 unlabeled images",
    "tinyimagenet": "Tiny-ImageNet at 32 pixels, 20 of 200 classes: ResNet-14 distilled from WRN-16-4",
}
SEEDS = {
    "digits": "Each seed draws its splits, labels, initial weights and teacher from 1,797 images, so the test splits "
    "of different seeds overlap with images that other seeds trained on.",
    "fashion": "Each seed draws its 12,000 images, labels, initial weights and teacher; the test split is the official "
    "one.",
    "tinyimagenet": "One teacher, one split and one pool of four views per image for all seeds; seeds differ in the "
    "initial weights of the student and in the order of the images. The test split is the official validation folder "
    "of these classes.",
}


def write_pages(studies: dict[str, dict], work: Path) -> None:
    """One page for each data set, from the studies in ``work``."""
    PAGES.mkdir(parents=True, exist_ok=True)
    for short in dict.fromkeys(name.partition("-")[0] for name in studies):
        names = [name for name in studies if name.partition("-")[0] == short]
        (PAGES / f"{short}.md").write_text("\n".join(_page(short, names, studies, work)) + "\n")


def _page(short: str, names: list[str], studies: dict[str, dict], work: Path) -> list[str]:
    study = studies[names[0]]
    tests = study["results"]["variants"]["distilled"]["gain"]["mcnemar"]
    lines = [
        f"# {TITLES[short]}", "",
        f"Written by `python benchmarks/studies.py` from a finished `limbeck study`. {SEEDS[short]}", "",
        f"`equal_time` trains {study['time_ratio']:.2f} times as many steps as `student_only`, since a step with the "
        "teacher takes that much longer in this recipe. The training of the teacher is not counted.", "",
        to_markdown(build_comparison([work / names[0]])).strip(), "",
    ]  # fmt: skip
    if len(tests) > 1:
        lines += [
            "McNemar's exact test over the test samples of each seed finds a difference between distilled and "
            f"student_only (p < 0.05) in {sum(test['p_value'] < 0.05 for test in tests)} of {len(tests)} seeds.", "",
        ]  # fmt: skip
    if len(names) > 1:
        lines += ["## By the number of labels", "", *_labels_table(short, names, studies), ""]
    return lines


def _labels_table(short: str, names: list[str], studies: dict[str, dict]) -> list[str]:
    """One row for each study, by labels: accuracies, and the gain with the wider interval."""
    lines = [
        "| labels | seeds | teacher, % | student_only, % | label_smoothing, % | distilled, % | gain, points | 95 % "
        "interval | verdict |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name in sorted(names, key=lambda name: int(name.partition("-")[2])):
        variants = studies[name]["results"]["variants"]
        gain, outcome = variants["distilled"]["gain"], variants["distilled"]["verdict"]["outcome"]
        low, high = min(gain["low"], gain["t_low"]), max(gain["high"], gain["t_high"])
        accuracies = [
            f"{100 * variants[variant]['accuracy']['mean']:.1f}"
            for variant in ("teacher", "student_only", "label_smoothing", "distilled")
        ]
        verdict = {"inconclusive": "no significant difference"}.get(outcome, outcome)
        lines.append(
            f"| {int(name.partition('-')[2]):,} | {gain['num_seeds']} | {' | '.join(accuracies)} | "
            f"{gain['mean']:+.2f} | {low:+.2f} to {high:+.2f} | {verdict} |"
        )
    labels = {"digits": 100, "fashion": 500}[short]
    return [
        *lines, "", "Rule and baselines as above; every other setting is that of the recipe for each number of labels, "
        f"and was chosen for {labels} labels.",
    ]  # fmt: skip
