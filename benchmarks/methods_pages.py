"""docs/results/methods.md, written from the studies of methods.py: nothing is typed by hand but these sentences."""

from __future__ import annotations

import json
from pathlib import Path

from methods_ratios import pulled

PAGE = Path(__file__).parent.parent / "docs" / "results" / "methods.md"
WEIGHTS, TAUS = ("0_9", "3", "9"), (1, 2, 4, 8)
SAID = {
    "improves": "improves",
    "degrades": "degrades",
    "inconclusive": "no significant difference",
    "unknown": "unknown",
}
TITLES = {
    "dkd": "DKD",
    "dist": "DIST",
    "standardised": "standardised logits",
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
BESIDE = ("at", "hint", "gram", "rkd", "sp", "crd", "review")
SMALL = {
    "distilled": "a second teacher (WRN-16-2), mean of probabilities", "heavier": "weight 3 at τ 8",
    "no_label": "no hard label", "dist": "DIST in place of KD", "relation": "RKD beside KD",
    "hint": "a hint beside KD (FitNets)",
    "twice_as_long": "twice as long (12 epochs)", "together": "two teachers, a hint, 12 epochs",
}  # fmt: skip
INTRO = """# Which form of knowledge helps?

Written by `python benchmarks/methods.py` from finished studies (`limbeck study`), with the teachers of
`benchmarks/method_teachers.py`. Three seeds each; one teacher, one split and one pool of views serve all seeds, so a
seed is the student's start and the order of the pictures, and intervals know of no other chance. Each interval is the
wider of bootstrap and Student's t at each end, paired by seed; a variant *improves* or *degrades* if both lie on one
side of zero. With as many arms as here some would look good by chance: no correction is in these verdicts, and
`study.json` holds Holm's. Trainings are short, so that a study ends within the hour; a method that needs long training
is at a loss. Weights of all terms but the grid's were set by how hard they pull in the first two epochs
(`benchmarks/matching.py`; standardised logits pulled less and less with such a weight, so theirs was set anew by
the pull over a whole training), and nothing was tuned on a test part.
"""


def write_page(found: dict[str, dict], told: dict, work: Path) -> None:
    """The page, of as many studies as there are."""
    parts = [INTRO.strip()]
    if "methods" in found:
        parts += [_grid(found["methods"], told), *_methods(found["methods"], told, work / "methods")]
    if "three" in found:
        parts.append(_three(found["three"], told))
    if "fine" in found:
        parts.append(_fine(found["fine"], told, work / "fine"))
    if "small" in found:
        parts.append(_small(found["small"], told, found.get("views")))
    parts.append(_summary(found, told))
    PAGE.write_text("\n\n".join(part.strip() for part in parts) + "\n")


def _grid(one: dict, told: dict) -> str:
    arms = one["results"]["variants"]
    lines = [
        "## Weight and temperature of plain distillation", "",
        f"CIFAR-10 (JPEG), 10,000 pictures, 6 epochs: ResNet-20 ({_top(arms['teacher'])} %) teaching ResNet-8, which "
        f"reaches {_top(arms['student_only'])} % alone, {_top(arms['label_smoothing'])} % with label smoothing and "
        f"{_top(arms['equal_time'])} % in equal wall time ({one['time_ratio']:.2f} times the steps). The teacher was "
        f"published trained on "
        "all 50,000 pictures without JPEG, and tuned here; it knows the validation pictures, the student does "
        "not. Beside "
        "0.1 · cross-entropy, gain over the student alone in points:", "",
        "| weight | " + " | ".join(f"τ = {tau}" for tau in TAUS) + " |", "|---" * (len(TAUS) + 1) + "|",
    ]  # fmt: skip
    for weight in WEIGHTS:
        cells = []
        for tau in TAUS:
            name = "distilled" if (weight, tau) == ("0_9", 4) else f"weight{weight}_tau{tau}"
            text = _gain(arms[name]["gain"])
            cells.append(f"**{text}**" if name == told["best"] else text)
        lines.append(f"| {weight.replace('_', '.')} | " + " | ".join(cells) + " |")
    over = [name for name in told if name.endswith("_over_kd")]
    told_apart = [name.removesuffix("_over_kd") for name in over if told[name]["outcome"] in ("improves", "degrades")]
    words = ", ".join(f"{_cell(name)} {SAID[told[name + '_over_kd']['outcome']]}" for name in told_apart) or "none"
    lines += [
        "", "Bold: the best of the twelve on validation. Against the usual 0.9 at τ = 4 these are told apart: "
        f"{words}.",
    ]  # fmt: skip
    return "\n".join(lines)


def _methods(one: dict, told: dict, work: Path) -> list[str]:
    responses = [
        "## Other responses, pulling as hard", "",
        "In place of the soft target of weight 0.9 at τ = 4, each with a weight at which its gradient was as "
        "long as that "
        "one's. *Pull* is what was reached: the median over the training of its gradient over that of 0.1 · "
        "cross-entropy "
        f"(plain KD: {_pull(work, 'distilled', one)}). CPU time: the least of the seeds, as the first fills the cache.",
        "",
        *_table(one, told, RESPONSES, work),
    ]  # fmt: skip
    beside = [
        "## Features and relations beside plain distillation", "",
        "Each term beside 0.1 · cross-entropy + 0.9 · soft target at τ = 4, pulling about half as hard as the "
        "soft target.",
        "", *_table(one, told, BESIDE, work),
    ]  # fmt: skip
    return ["\n".join(responses), "\n".join(beside)]


def _table(one: dict, told: dict, names: tuple[str, ...], work: Path) -> list[str]:
    arms = one["results"]["variants"]
    usual = _seconds(work, "distilled", one["seeds"])
    lines = [
        "| method | accuracy, % | gain over alone | against plain KD | verdict against KD | pull | CPU time "
        "against KD's |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    for name in ("distilled", *names):
        arm, over = arms[name], told.get(name)
        lines.append(
            f"| {TITLES.get(name, 'plain KD')} | {_top(arm)} | {_gain(arm['gain'])} | "
            f"{_gain(over) if over else '–'} | "
            f"{SAID[over['outcome']] if over else '–'} | {_pull(work, name, one)} | "
            f"{_seconds(work, name, one['seeds']) / usual:.1f} × |"
        )
    return lines


def _three(one: dict, told: dict) -> str:
    arms = one["results"]["variants"]
    names = {
        "only_cnn": "the CNN", "only_resnet": "the ResNet", "only_vit": "the ViT",
        "cnn_and_resnet": "CNN and ResNet, mean of probabilities", "distilled": "all three, mean of probabilities",
        "surest": "all three, row by row more of the surest",
    }  # fmt: skip
    lines = [
        "## Three teachers of different architecture", "",
        "The same student, pictures and length: a CNN and a small ViT, trained here on the 47,500 training "
        "pictures, beside "
        "the ResNet. The best single teacher was chosen on validation.", "",
        "| who teaches | accuracy, % | gain over alone | against the best single | verdict |",
        "|---|---:|---:|---:|---|",
    ]  # fmt: skip
    for name, title in names.items():
        over = told.get(f"three_{name}")
        lines.append(
            f"| {title} | {_top(arms[name])} | {_gain(arms[name]['gain'])} | {_gain(over) if over else '–'} | "
            f"{SAID[over['outcome']] if over else ('the best single' if name == told['single'] else '–')} |"
        )
    return "\n".join(lines)


def _fine(one: dict, told: dict, work: Path) -> str:
    arms = one["results"]["variants"]
    names = {
        "equal_time": f"alone, equal wall time ({one['time_ratio']:.2f} times the steps)",
        "rkd": "RKD beside the label",
        "sp": "SP beside the label",
        "distilled": "plain KD",
        "kd_rkd": "KD + RKD",
        "kd_sp": "KD + SP",
        "kd_gram": "KD + Gram",
    }
    lines = [
        "## Relations between close classes", "",
        "Tiny-ImageNet at 32 pixels, 20 furred mammals (dogs, cats, hooves, apes), 9,000 pictures, 10 epochs: "
        f"WRN-16-2 ({_top(arms['teacher'])} %) teaching ResNet-8 ({_top(arms['student_only'])} % alone); 1,000 test "
        f"pictures. "
        "Published claims for relations on fine-grained classes are +3 to +5 points.", "",
        "| arm | accuracy, % | gain over alone | against plain KD | verdict over alone | pull of the relation |",
        "|---|---:|---:|---:|---|---:|",
    ]  # fmt: skip
    for name, title in names.items():
        arm, over = arms[name], told.get(f"fine_{name}")
        verdict = SAID[arm["verdict"]["outcome"]]
        pull = _pull(work, name, one, but=("kd",)) if name not in ("equal_time", "distilled") else "–"
        lines.append(
            f"| {title} | {_top(arm)} | {_gain(arm['gain'])} | {_gain(over) if over else '–'} | {verdict} | {pull} |"
        )
    return "\n".join(lines)


def _small(one: dict, told: dict, views: dict | None) -> str:
    arms, equal, chosen = one["results"]["variants"], told["equal"], told["chosen"]
    times = arms[chosen]["steps"] / arms["student_only"]["steps"]
    lines = [
        "## A small student, and what each idea gives it",
        "",
        f"Tiny-ImageNet at 32 pixels, every tenth class, 6 epochs: WRN-16-4 ({_top(arms['teacher'])} %) teaching "
        f"ResNet-14 ({_top(arms['student_only'])} % alone, {_top(arms['equal_time'])} % in equal wall time, "
        f"{one['time_ratio']:.2f} "
        f"times the steps). Of the arms with as many steps as alone, `{equal}` is the best on validation: "
        f"{_top(arms[equal])} %, {_share(arms[equal])} of the gap; the literature's yardstick is 62 %. Against equal "
        f"wall time it is {_gain(told['equal_over_longer'])} points, {_said(told['equal_over_longer'])}. Of all arms "
        f"`{chosen}` is, with {times:.0f} times the steps: {_top(arms[chosen])} %, {_share(arms[chosen])} of the gap, "
        f"and {_gain(told['chosen_over_longer'])} points against equal wall time, {_said(told['chosen_over_longer'])}.",
        "",
        "| change of one teacher's plain KD | accuracy, % | gain over alone | share of the gap | against plain "
        "KD | verdict |",
        "|---|---:|---:|---:|---:|---|",
        f"| none: 0.1 · label + 0.9 · KD at τ 4 | {_top(arms['one_teacher'])} | "
        f"{_gain(arms['one_teacher']['gain'])} | "
        f"{_share(arms['one_teacher'])} | – | – |",
    ]
    for name, title in SMALL.items():
        arm, against = arms[name], told[f"small_{name}"]
        lines.append(
            f"| {title} | {_top(arm)} | {_gain(arm['gain'])} | {_share(arm)} | {_gain(against)} | "
            f"{SAID[against['outcome']]} |"
        )
    if views is not None:
        fresh = views["results"]["variants"]
        lines += [
            "", f"With 6 fresh views a picture in place of a pool of 4, alone reaches {_top(fresh['student_only'])} % "
            "and one "
            f"teacher's plain KD {_top(fresh['one_teacher'])} %: {_gain(fresh['one_teacher']['gain'])} points, "
            f"{_share(fresh['one_teacher'])} of the gap.",
        ]  # fmt: skip
    return "\n".join(lines)


def _summary(found: dict[str, dict], told: dict) -> str:
    """Three lists, by verdict: each method against what it stands beside."""
    said: dict[str, list[str]] = {"improves": [], "degrades": [], "inconclusive": [], "unknown": []}
    if "methods" in found:
        arms = found["methods"]["results"]["variants"]
        for name in ("equal_time", "label_smoothing", "distilled"):
            title = {"equal_time": "more steps", "label_smoothing": "label smoothing", "distilled": "plain KD"}[name]
            said[arms[name]["verdict"]["outcome"]].append(f"{title} over the student alone (CIFAR-10)")
        for name in (*RESPONSES, *BESIDE):
            said[told[name]["outcome"]].append(f"{TITLES[name]} against plain KD (CIFAR-10)")
    if "three" in found:
        for name, title in (
            ("distilled", "the mean of three teachers"), ("cnn_and_resnet", "the mean of CNN and ResNet"),
            ("surest", "the surest of three teachers"),
        ):  # fmt: skip
            said[told[f"three_{name}"]["outcome"]].append(f"{title} against the best single one (CIFAR-10)")
    if "fine" in found:
        arms = found["fine"]["results"]["variants"]
        for name, title in (("rkd", "RKD"), ("sp", "SP"), ("distilled", "plain KD")):
            said[arms[name]["verdict"]["outcome"]].append(f"{title} over the label alone (close classes)")
        for name, title in (("kd_rkd", "RKD"), ("kd_sp", "SP"), ("kd_gram", "Gram")):
            said[told[f"fine_{name}"]["outcome"]].append(f"{title} beside KD, against KD (close classes)")
    if "small" in found:
        for name, title in SMALL.items():
            said[told[f"small_{name}"]["outcome"]].append(f"{title}, against one teacher's plain KD (Tiny-ImageNet)")
    lines = ["## What helped, what did not, what could not be told apart", ""]
    for verdict, title in (
        ("improves", "Improves"),
        ("degrades", "Degrades"),
        ("inconclusive", "No significant difference with three seeds"),
    ):
        lines.append(f"- **{title}**: {'; '.join(said[verdict]) or 'nothing'}.")
    return "\n".join(lines)


def _top(arm: dict) -> str:
    return f"{100 * arm['accuracy']['mean']:.1f}"


def _gain(found: dict) -> str:
    low, high = min(found["low"], found["t_low"]), max(found["high"], found["t_high"])
    return f"{found['mean']:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")


def _said(found: dict) -> str:
    return SAID[found["outcome"]]


def _share(arm: dict) -> str:
    gap = arm["gap_recovered"]
    return f"{100 * gap['fraction']:.0f} % ({100 * gap['low']:.0f} to {100 * gap['high']:.0f})".replace("-", "−")


def _seconds(work: Path, name: str, seeds: list[int]) -> float:
    """The least over seeds: whoever fills a cache pays for all who read it."""
    records = (json.loads((work / "trials" / name / str(seed) / "record.json").read_text()) for seed in seeds)
    return min(record["models"][name]["resources"]["cpu_seconds"] for record in records)


def _pull(work: Path, name: str, one: dict, but: tuple[str, ...] = ()) -> str:
    found = {term: value for term, value in pulled(work, name, one["seeds"]).items() if term not in but}
    if set(found) > {"kd"}:
        found.pop("kd", None)
    named = len(found) > 1
    told = (f"{term.replace('at_', '')} {value:.2g}" if named else f"{value:.2g}" for term, value in found.items())
    return ", ".join(told) or "–"


def _cell(name: str) -> str:
    weight, _, tau = name.removeprefix("weight").partition("_tau")
    return f"{weight.replace('_', '.')} at τ = {tau}"
