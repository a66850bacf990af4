"""Arms against their controls: differences paired by seed, by class, and on which samples two arms agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from torch import Tensor

from limbeck.evaluation import Answers, mean_over_seeds, paired_bootstrap, paired_over_seeds
from limbeck.report.compare import Agreement, ClassChange, Gain, Mean
from limbeck.report.record import Quality
from limbeck.workflows.compare.load_runs import Trained

__all__ = ["agreement", "changes", "difference", "mean", "quality"]

Seeds = Mapping[int | None, Trained]
"""The finished trainings of one arm by seed."""


def quality(one: Trained, part: str) -> Quality | None:
    """The figures of a training on ``part``."""
    figures = one.figures
    return None if figures is None else figures.test if part == "test" else figures.validation


def mean(values: Sequence[float | None]) -> Mean | None:
    """Over seeds; ``None`` where no seed has the figure."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    found = mean_over_seeds(known)
    return Mean(found["mean"], found["low"], found["high"], found["n"])


def difference(ours: Seeds, theirs: Seeds, part: str) -> Gain | None:
    """One arm against another in points of accuracy, over the seeds that both have; ``None`` where that is none.

    All statistics of runs that belong to no study are made here, and nowhere else.
    """
    mine_top, their_top, right = list[float](), list[float](), list[tuple[Tensor, Tensor]]()
    for seed in sorted(set(ours) & set(theirs), key=str):
        mine, other = quality(ours[seed], part), quality(theirs[seed], part)
        if mine is None or other is None or mine.top1 is None or other.top1 is None:
            continue
        mine_top.append(100 * mine.top1)
        their_top.append(100 * other.top1)
        right += _right(ours[seed], theirs[seed], part)
    if not mine_top:
        return None
    found = paired_over_seeds(mine_top, their_top)
    if len(mine_top) > 1:
        return Gain(**{name: found[name] for name in ("mean", "low", "high", "t_low", "t_high", "n", "p")})
    ends = paired_bootstrap(*right[0])[1:] if right else _recorded(ours, theirs)
    return Gain(mean=found["mean"], samples=ends, n=1)


def changes(ours: Seeds, theirs: Seeds, part: str) -> tuple[ClassChange, ...]:
    """Accuracy in each class minus the control's, in points, averaged over the seeds that both have."""
    points: dict[str, list[float]] = {}
    examples: dict[str, int] = {}
    for seed in set(ours) & set(theirs):
        mine, other = quality(ours[seed], part), quality(theirs[seed], part)
        before = {one.name: one.accuracy for one in (other.per_class if other else [])}
        for one in mine.per_class if mine else []:
            there = before.get(one.name)
            if one.accuracy is not None and there is not None:
                points.setdefault(one.name, []).append(100 * (one.accuracy - there))
                examples[one.name] = one.examples
    return tuple(ClassChange(name, fmean(values), examples[name]) for name, values in points.items())


def agreement(arms: Mapping[str, Seeds]) -> Agreement | None:
    """The share of samples on which two arms choose one class; ``None`` where no answers are kept."""
    kept = {name: seeds for name, seeds in arms.items() if any(one.answers for one in seeds.values())}
    if len(kept) < 2:
        return None
    rows = tuple(
        tuple(_churn(seeds) if name == other else _agree(seeds, kept[other]) for other in kept)
        for name, seeds in kept.items()
    )
    return Agreement(tuple(kept), rows)


def _agree(ours: Seeds, theirs: Seeds) -> float | None:
    shares = [_share(ours[seed], theirs[seed]) for seed in set(ours) & set(theirs)]
    known = [share for share in shares if share is not None]
    return fmean(known) if known else None


def _churn(seeds: Seeds) -> float | None:
    """How far two seeds of one arm agree: what any other figure of the matrix is to be held against."""
    ones = list(seeds.values())
    shares = [_share(one, other) for place, one in enumerate(ones) for other in ones[:place]]
    known = [share for share in shares if share is not None]
    return fmean(known) if known else None


def _share(one: Trained, other: Trained) -> float | None:
    mine, theirs = _said(one), _said(other)
    if mine is None or theirs is None or not one.answers or not other.answers or not _alike(one.answers, other.answers):
        return None
    return float((mine == theirs).double().mean()) if len(mine) else None


def _right(one: Trained, other: Trained, part: str) -> list[tuple[Tensor, Tensor]]:
    """Who is right where, of both on the same samples; empty where that is not known."""
    if not one.answers or not other.answers or _said(one) is None or _said(other) is None:
        return []
    if not _alike(one.answers, other.answers) or one.answers.part != part:
        return []
    both = one.answers.right(one.model), other.answers.right(other.model)
    return [both] if len(both[0]) else []


def _said(one: Trained) -> Tensor | None:
    return one.answers.predicted.get(one.model) if one.answers else None


def _alike(one: Answers, other: Answers) -> bool:
    same = (one.part, one.fingerprint) == (other.part, other.fingerprint)
    return one is other or (same and bool(one.fingerprint) and len(one.target) == len(other.target))


def _recorded(ours: Seeds, theirs: Seeds) -> tuple[float, float] | None:
    """The interval that a run wrote down itself, where its answers were not kept: of distilled against alone."""
    one, other = next(iter(ours.values())), next(iter(theirs.values()))
    if one.record is None or one.record is not other.record or (one.role, other.role) != ("distilled", "alone"):
        return None
    ends = one.record.verdict.interval_points if one.record.verdict else None
    return (ends[0], ends[1]) if ends and ends[0] is not None and ends[1] is not None else None
