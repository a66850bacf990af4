"""Pictures of the comparison: how accuracy grew with the steps, and what it costs in latency and size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from limbeck.report.compare.columns import milliseconds
from limbeck.report.compare.comparison import Arm
from limbeck.report.compare.styles import Look
from limbeck.report.formatting import amount, percent
from limbeck.report.metrics_csv import Curve
from limbeck.report.plots import style as ink
from limbeck.report.plots.scatter import diameter, ranges

__all__ = ["learning", "plane"]

_SIZE = (420.0, 280.0)
_SAME = 1.05
"""Times another one's latency up to which two count as equally quick: one network measured twice differs by as much."""


def learning(arms: Sequence[Arm], looks: Mapping[str, Look]) -> ink.Plot | None:
    """Validation accuracy by step: a thin line for each seed, a thick one for their mean; ``None`` without curves."""
    drawn = [(arm, curves) for arm in arms if (curves := [curve for curve in arm.curves if _known(curve)[0]])]
    if not drawn:
        return None
    figure = ink.blank(*_SIZE)
    panel = ink.axes(figure, left=48, bottom=44, right=14, top=12)
    keys, said = [], []
    for arm, curves in drawn:
        look = looks[arm.name]
        means = _means(curves)
        for curve in curves if len(curves) > 1 else []:
            panel.plot(*_known(curve), color=look.colour, linewidth=0.8, alpha=0.35)
        mark = look.mark if len(means[0]) == 1 else None
        panel.plot(*means, color=look.colour, linewidth=2, linestyle=look.dash, marker=mark)
        words = f"{arm.name}, {percent(means[1][-1])}"
        keys.append(ink.Key(look.ink, f"line dash{look.place % 4}", words))
        said.append(words)
    every = [[value for curve in curves for value in _known(curve)[1]] for _, curves in drawn]
    late = [value for _, curves in drawn for curve in curves for value in _late(curve)]
    top = max(max(values) for values in every)
    floor = max(0.0, math.floor(20 * (min(late) - 0.01)) / 20)
    panel.set_ylim(floor, min(1.0, top + 0.05 * (top - floor)) + 0.002 if top > floor else top + 0.01)
    panel.set_xlim(0, max(curve.steps[-1] for _, curves in drawn for curve in curves) * 1.01)
    _ticks(panel, top - floor)
    several = any(len(curves) > 1 for _, curves in drawn)
    note = "Thin lines are seeds, thick ones the mean of those that came furthest." if several else ""
    if any(value < floor for values in every for value in values):
        start = f"The axis starts at {percent(floor, digits=0)}; lower values of the first steps are cut off."
        note = f"{note} {start}".strip()
    says = f"Validation accuracy by step, at the end: {'; '.join(said)}."
    return ink.Plot(ink.svg(figure, name="learning"), says, note, tuple(keys))


def plane(arms: Sequence[Arm], looks: Mapping[str, Look]) -> ink.Plot | None:
    """Accuracy against latency, the mark grows with the size; the line joins the arms that no other one beats."""
    dots = [(arm, arm.latency, arm.top1.mean) for arm in arms if arm.top1 and arm.latency]
    if not dots:
        return None
    figure = ink.blank(*_SIZE)
    panel = ink.axes(figure, left=52, bottom=44, right=16, top=14, grid="both")
    ends = [end for arm, *_ in dots if arm.top1 for end in (arm.top1.low, arm.top1.high) if end is not None]
    ranges(panel, [latency for _, latency, _ in dots], [*(top for *_, top in dots), *ends])
    best = _front([(latency, top) for _, latency, top in dots])
    panel.step(
        [latency for latency, _ in best], [top for _, top in best], where="post", color=ink.INK["muted"], linewidth=1,
        linestyle=ink.dash(1), zorder=1,
    )  # fmt: skip
    keys = []
    for arm, latency, top in sorted(dots, key=lambda dot: -(dot[0].parameters or 0)):
        look = looks[arm.name]
        if arm.top1 and arm.top1.low is not None and arm.top1.high is not None:
            panel.vlines([latency], arm.top1.low, arm.top1.high, color=look.colour, linewidth=1.2, alpha=0.6)
        panel.plot(
            [latency], [top], linestyle="none", marker=look.mark, markersize=0.8 * diameter(arm.parameters),
            markerfacecolor=look.colour, markeredgecolor=ink.INK["paper"], markeredgewidth=1.2, alpha=0.92, zorder=3,
        )  # fmt: skip
    for arm, latency, top in dots:
        words = f"{arm.name}, {percent(top)}, {milliseconds(latency)} ms, {amount(arm.parameters)} parameters"
        keys.append(ink.Key(looks[arm.name].ink, looks[arm.name].chip, words))
    panel.set_xlabel("latency, median, ms (log scale)", color=ink.INK["muted"], fontsize=12, labelpad=6)
    names = ", ".join(arm.name for arm, latency, top in dots if (latency, top) in best)
    note = (
        "Up and to the left is better; the mark grows with the logarithm of the parameters. The dashed line joins the "
        f"arms that no other beats in accuracy in the same time: {names}. Latencies within 5 % count as the same."
    )
    said = "; ".join(key.words for key in keys)
    return ink.Plot(ink.svg(figure, name="plane"), f"Accuracy against latency: {said}.", note, tuple(keys))


def _front(dots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The dots that no other one beats by more accuracy in the same time or less, the quickest first.

    >>> _front([(1.0, 0.80), (1.02, 0.90), (3.0, 0.95), (4.0, 0.93)])
    [(1.02, 0.9), (3.0, 0.95)]
    """
    return sorted(
        one for one in dots if not any(top > one[1] and latency <= _SAME * one[0] for latency, top in dots)
    )  # fmt: skip


def _means(curves: Sequence[Curve]) -> tuple[list[float], list[float]]:
    """Mean accuracy of the seeds that have come furthest, at the steps that all of them have."""
    ones: list[dict[float, float]] = [dict(zip(*_known(curve), strict=True)) for curve in curves]
    last = max(max(one) for one in ones)
    ones = [one for one in ones if max(one) == last]
    steps = sorted(set.intersection(*(set(one) for one in ones)))
    return steps, [fmean(one[step] for one in ones) for step in steps]


def _known(curve: Curve) -> tuple[list[float], list[float]]:
    """Steps and accuracies of the rows that have one."""
    pairs = [(step, value) for step, value in zip(curve.steps, curve.accuracy, strict=True) if math.isfinite(value)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _late(curve: Curve) -> list[float]:
    values = _known(curve)[1]
    return values[len(values) // 10 :]


def _ticks(panel: Any, spread: float) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel("optimizer steps", color=ink.INK["muted"], fontsize=12, labelpad=6)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    panel.xaxis.set_major_formatter(lambda value, _: amount(value, significant=2) if value else "0")
    panel.yaxis.set_major_formatter(lambda value, _: percent(value, digits=0 if spread > 0.04 else 1))
