"""How training went: validation accuracy of every phase, and what the distilled student's loss was made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from limbeck.report.formatting import amount, percent
from limbeck.report.metrics_csv import Curve
from limbeck.report.plots import style as ink

if TYPE_CHECKING:
    from limbeck.report.record import Record

__all__ = ["accuracy_curves", "boundaries", "last", "loss_parts", "step_axis"]

_SIZE = (420.0, 260.0)
_FEW = 12


def accuracy_curves(record: Record, curves: dict[str, Curve]) -> ink.Plot | None:
    """Validation accuracy by step for each phase; ``None`` where no phase has any."""
    drawn = [(name, curves[name]) for name, _ in record.ordered() if name in curves and _any(curves[name].accuracy)]
    if not drawn:
        return None
    figure = ink.blank(*_SIZE)
    panel = ink.axes(figure, left=44, bottom=44, right=14, top=12)
    keys, said = [], []
    seen: dict[str, int] = {}
    for name, curve in drawn:
        role = record.models[name].role
        place = seen.get(role, 0)
        seen[role] = place + 1
        panel.plot(
            curve.steps, curve.accuracy, color=ink.colour(role), linestyle=ink.dash(place),
            linewidth=1.6 if role == "teacher" else 2, markersize=5,
            marker=ink.marker(role) if len(curve.steps) < _FEW else None,
        )  # fmt: skip
        words = f"{record.short(name)}, last {percent(last(curve.accuracy))}"
        keys.append(ink.Key(role, f"line dash{place % 4}", words))
        said.append(words)
    floor = _floor([curve for _, curve in drawn])
    top = max(max(v for v in curve.accuracy if math.isfinite(v)) for _, curve in drawn)
    panel.set_ylim(floor, min(1.0, top + 0.05 * (top - floor)) + 0.002 if top > floor else top + 0.01)
    panel.set_xlim(0, max(curve.steps[-1] for _, curve in drawn) * 1.01)
    panel.yaxis.set_major_formatter(lambda value, _: percent(value, digits=0 if top - floor > 0.04 else 1))
    step_axis(panel)
    cut = any(value < floor for _, curve in drawn for value in curve.accuracy)
    note = f"The axis starts at {percent(floor, digits=0)}; lower values of the first steps are cut off." if cut else ""
    return ink.Plot(
        ink.svg(figure, name="curves"), f"Validation accuracy by step: {'; '.join(said)}.", note, tuple(keys)
    )


def loss_parts(curve: Curve | None) -> ink.Plot | None:
    """Each term's share of the distilled student's training loss; stacked, since shares sum to the loss.

    A term that goes below zero cannot be stacked; then all are lines.
    """
    if curve is None or not curve.losses:
        return None
    figure = ink.blank(*_SIZE)
    panel = ink.axes(figure, left=44, bottom=44, right=14, top=12)
    parts = {name: [0.0 if math.isnan(v) else v for v in values] for name, values in curve.losses.items()}
    inks = [f"t{place % ink.SERIES + 1}" for place in range(len(parts))]
    total = [sum(values) for values in zip(*parts.values(), strict=True)]
    stacked = all(value >= 0 for values in parts.values() for value in values) and len(curve.steps) > 1
    if stacked:
        below = [0.0] * len(total)
        for name, values in zip(inks, parts.values(), strict=True):
            above = [one + other for one, other in zip(below, values, strict=True)]
            panel.fill_between(curve.steps, below, above, color=ink.INK[name], alpha=0.28, linewidth=0)
            panel.plot(curve.steps, above, color=ink.INK[name], linewidth=2)
            below = above
    else:
        for name, line in zip(inks, curve.losses.values(), strict=True):
            mark = "o" if len(line) < _FEW else None
            panel.plot(curve.steps, line, color=ink.INK[name], linewidth=2, marker=mark)
        panel.plot(curve.steps, total, color=ink.INK["ink"], linewidth=1.2, linestyle=ink.dash(2))
    high, low = _roof(total if stacked else [*total, *(v for values in parts.values() for v in values)]), min(total)
    panel.set_ylim(0 if stacked or low >= 0 else low * 1.05, high)
    panel.set_xlim(0 if not stacked else curve.steps[0], curve.steps[-1] * (1 if stacked else 1.01))
    boundaries(panel, curve)
    step_axis(panel)
    keys = [
        ink.Key(name, "area" if stacked else "line", f"{term}, last {last(values):.3g}")
        for (term, values), name in zip(curve.losses.items(), inks, strict=True)
    ]
    note = "Each term with its weight; stacked, they are the loss." if stacked else "Each term with its weight."
    note = note if stacked or len(parts) < 2 else f"{note} The dotted line is their sum."
    if any(value > high for value in total):
        note += f" Higher values of the first steps, up to {max(total):.3g}, are cut off."
    said = ", ".join(f"{term} ends at {last(values):.3g}" for term, values in curve.losses.items())
    return ink.Plot(ink.svg(figure, name="losses"), f"Parts of the training loss: {said}.", note, tuple(keys))


def _floor(drawn: Sequence[Curve]) -> float:
    """Where the axis begins: the lowest accuracy once the first tenth of a training is over, to a round number."""
    late = [v for c in drawn for v in c.accuracy[len(c.accuracy) // 10 :] if math.isfinite(v)]
    every = [v for c in drawn for v in c.accuracy if math.isfinite(v)]
    lowest = min(late or every)
    return max(0.0, math.floor(20 * (lowest - 0.01)) / 20)


def _roof(total: Sequence[float]) -> float:
    """Where the axis ends: a tall first epoch must not flatten all the others."""
    ordered = sorted(total)
    late = max(total[len(total) // 20 :])
    return max(ordered[-1] if ordered[-1] < 3 * late else 1.15 * late, 1e-12) * 1.04


def boundaries(panel: Any, curve: Curve) -> None:
    """A line where each stage but the first began."""
    for name, step in list(curve.stages.items())[1:]:
        panel.axvline(step, color=ink.INK["muted"], linewidth=1, linestyle=ink.dash(2))
        panel.text(
            step, 0.98, f" {name}", transform=panel.get_xaxis_transform(), va="top", color=ink.INK["muted"],
            fontsize=11, parse_math=False, clip_on=True,
        )  # fmt: skip


def step_axis(panel: Any, *, log: bool = False) -> None:
    """Optimizer steps below, and a few round numbers at the side; ``log`` leaves a logarithmic side as it is."""
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel("optimizer steps", color=ink.INK["muted"], fontsize=12, labelpad=6)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    if not log:
        panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    panel.xaxis.set_major_formatter(lambda value, _: amount(value, significant=2) if value else "0")


def last(values: Sequence[float]) -> float:
    """The last number that is one."""
    return next((value for value in reversed(values) if math.isfinite(value)), math.nan)


def _any(values: Sequence[float]) -> bool:
    return any(map(math.isfinite, values))
