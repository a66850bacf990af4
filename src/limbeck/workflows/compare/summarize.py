"""One arm with all its figures: those that a study has worked out are taken, others are worked out here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, cast

from limbeck.evaluation import gap_recovered
from limbeck.report.compare import Arm, Mean, Share, Spent, judged, sentence
from limbeck.report.record import Model
from limbeck.workflows.compare.differences import Seeds, changes, difference, mean, quality
from limbeck.workflows.compare.load_runs import Trained
from limbeck.workflows.compare.study_json import mean_of, written_gain, written_share

__all__ = ["arm_figures"]


def arm_figures(
    name: str, arms: Mapping[str, Seeds], found: Sequence[Trained], *, control: str | None, part: str,
    given: Mapping[str, Any], plan: Mapping[str, Any],
) -> Arm:  # fmt: skip
    """The arm ``name`` against ``control``.

    Arguments:
        name: of the arm.
        arms: finished trainings of every arm by seed.
        found: all trainings, finished or not.
        control: the arm it is compared with; ``None`` of the control itself.
        part: of the data, ``test`` or ``validation``.
        given: its results in ``study.json``; what is missing is worked out.
        plan: what ``study.json`` says of it: ``title``, ``changes``, ``note``.
    """
    seeds, ones = arms[name], [one for one in found if one.arm == name]
    figures = [one.figures for one in seeds.values() if one.figures]
    model = figures[0] if figures else None
    other = arms[control] if control else {}
    gain = written_gain(given.get("gain")) or (difference(seeds, other, part) if control else None)
    gap = written_share(given.get("gap_recovered")) or _gap(ones[0], arms, found, control, part)
    said = given["verdict"] if isinstance(given.get("verdict"), dict) else {}

    def over_seeds(key: str) -> Mean | None:
        return mean_of(given.get(key)) or mean([getattr(quality(one, part), key, None) for one in seeds.values()])

    examples = next((q.examples for one in seeds.values() if (q := quality(one, part))), None)
    told = sentence(name, control, gain, gap, examples=examples)
    judgement = said.get("judgement")
    return Arm(
        name=name, role=cast(Any, ones[0].role), title=str(plan.get("title") or _title(model)), note=_note(plan),
        control=control, top1=over_seeds("top1"), macro_f1=over_seeds("macro_f1"), nll=over_seeds("nll"),
        ece=over_seeds("ece"), gain=gain, gap=gap,
        judgement=judgement if judgement in ("helps", "hurts", "open", "unknown") else judged(gain),
        sentence=str(said.get("sentence") or told), seeds_needed=said.get("seeds_needed"),
        parameters=model.parameters if model else None, flops=model.flops if model else None,
        bytes=model.bytes if model else None,
        latency=_mean(one.latency_ms.median if one.latency_ms else None for one in figures),
        steps=model.steps if model else None, spent=_spent(figures), classes=changes(seeds, other, part),
        curves=tuple(one.curve for one in ones if one.curve),
    )  # fmt: skip


def _gap(
    one: Trained, arms: Mapping[str, Seeds], found: Sequence[Trained], control: str | None, part: str
) -> Share | None:
    """The share of the gap from the control to the teacher of the same recipe; the best on validation, of several."""
    teachers = {other.arm for other in found if other.role == "teacher" and other.group == one.group}
    if not control or one.role in ("teacher", "assistant") or not teachers:
        return None

    def top(name: str, on: str, among: set[int | None]) -> float:
        values = [quality(arms[name][seed], on) for seed in among]
        known = [value.top1 for value in values if value and value.top1 is not None]
        return fmean(known) if known and len(known) == len(among) else -1.0

    best = max(sorted(teachers), key=lambda name: top(name, "validation", set(arms[name])))
    shared = set(arms[one.arm]) & set(arms[control]) & set(arms[best])
    tops = [top(name, part, shared) for name in (control, one.arm, best)]
    share = gap_recovered(*tops) if min(tops) >= 0 else None
    return None if share is None else Share(share)


def _spent(figures: Sequence[Model]) -> Spent:
    def over_seeds(key: str) -> float | None:
        return _mean(getattr(one.spent, key, None) for one in figures)

    seconds = over_seeds("seconds")
    return Spent(
        _mean(one.seconds for one in figures) if seconds is None else seconds, over_seeds("cpu_seconds"),
        over_seeds("gpu_seconds"), over_seeds("joules"),
    )  # fmt: skip


def _title(model: Model | None) -> str:
    """A model's title without its role, which the name of the arm tells."""
    return "" if model is None else model.title.partition(": ")[2] or model.title


def _note(plan: Mapping[str, Any]) -> str:
    changed = plan.get("changes")
    said = ", ".join(f"{key}={value}" for key, value in changed.items()) if isinstance(changed, Mapping) else ""
    return "; ".join(text for text in (said, str(plan.get("note") or "")) if text)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
