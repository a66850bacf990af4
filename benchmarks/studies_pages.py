"""The pages of docs/results, written from finished studies: nothing in them is typed by hand but these sentences."""

from __future__ import annotations

from pathlib import Path

from limbeck.report.compare import to_markdown
from limbeck.workflows.compare.run import build_comparison

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "results"
TITLES = {
    "digits": "Digits: a small CNN, 100 labels, and 978 pictures without one",
    "fashion": "Fashion-MNIST: a student without convolutions, 500 labels, and 11,500 pictures without one",
    "tinyimagenet": "Tiny-ImageNet at 32 pixels, 20 of 200 classes: ResNet-14 taught by WRN-16-4",
}
ABOUT = {
    "digits": "Each seed draws its own parts, labels, weights and teacher from 1,797 pictures, so test parts of "
    "different seeds overlap with pictures that other seeds trained on.",
    "fashion": "Each seed draws its own 12,000 pictures, labels, weights and teacher; the test part is the "
    "official one.",
    "tinyimagenet": "One teacher, one split and one pool of four views a picture for all seeds; seeds differ in the "
    "start of the student and in the order of the pictures. The test part is the official validation folder of these "
    "classes.",
}


def write_pages(found: dict[str, dict], work: Path) -> list[Path]:
    """One page for each data set of ``found``, whose studies stand in ``work``."""
    written = []
    for short in dict.fromkeys(name.partition("-")[0] for name in found):
        mine = [name for name in found if name.partition("-")[0] == short]
        PAGES.mkdir(parents=True, exist_ok=True)
        page = PAGES / f"{short}.md"
        page.write_text("\n".join(_page(short, mine, found, work)) + "\n")
        written.append(page)
    return written


def _page(short: str, names: list[str], found: dict[str, dict], work: Path) -> list[str]:
    first = names[0]
    arms = found[first]["results"]["variants"]
    lines = [
        f"# {TITLES[short]}", "",
        "Written by `python benchmarks/studies.py` from a finished `limbeck study`. " + ABOUT[short], "",
        _budget(found[first]), "", to_markdown(build_comparison([work / first])).strip(), "",
    ]  # fmt: skip
    if len(arms["distilled"]["gain"]["mcnemar"]) > 1:
        told = arms["distilled"]["gain"]["mcnemar"]
        many = sum(one["p_value"] < 0.05 for one in told)
        lines += [
            "McNemar's exact test over the test samples of each seed by itself finds distilled and alone apart "
            f"(p < 0.05) in {many} of {len(told)} seeds.", "",
        ]  # fmt: skip
    if len(names) > 1:
        lines += ["## By the number of labels", "", *_labels(short, names, found), ""]
    return lines


def _budget(one: dict) -> str:
    return (
        f"`equal_time` makes {one['time_ratio']:.2f} times the steps of `student_only`: so much longer takes a step "
        "with the teacher, "
        "which is asked as the recipe says. The teacher's own training is not counted."
    )


def _labels(short: str, names: list[str], found: dict[str, dict]) -> list[str]:
    """One row for each study, by labels: accuracies, and the gain with the wider interval."""
    rows = sorted(names, key=lambda name: int(name.partition("-")[2]))
    lines = [
        "| labels | seeds | teacher, % | alone, % | label smoothing, % | distilled, % | gain, points | 95 % interval "
        "| verdict |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name in rows:
        arms = found[name]["results"]["variants"]
        gain, verdict = arms["distilled"]["gain"], arms["distilled"]["verdict"]["outcome"]
        low, high = min(gain["low"], gain["t_low"]), max(gain["high"], gain["t_high"])
        tops = [
            f"{100 * arms[arm]['accuracy']['mean']:.1f}"
            for arm in ("teacher", "student_only", "label_smoothing", "distilled")
        ]
        words = {"inconclusive": "no significant difference"}.get(verdict, verdict)
        lines.append(
            f"| {int(name.partition('-')[2]):,} | {gain['num_seeds']} | {' | '.join(tops)} | {gain['mean']:+.2f} | "
            f"{low:+.2f} to {high:+.2f} | {words} |"
        )
    return [*lines, "", f"Rule and controls as above; {_steps(short)}"]


def _steps(short: str) -> str:
    return "every other setting is the recipe's, for each number of labels alike, and was chosen for " + (
        "100 labels." if short == "digits" else "500 labels."
    )
