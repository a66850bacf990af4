"""What moved while the distilled student was trained: temperatures, shares of the loss, and pulls at its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.report.plots import style as ink
from limbeck.report.plots.curves import boundaries, last, step_axis
from limbeck.report.temperature_csv import Taken

if TYPE_CHECKING:
    from limbeck.report.metrics_csv import Curve

__all__ = ["gradient_ratios", "shares", "temperatures"]

_SIZE = (420.0, 220.0)
_FEW = 12


def temperatures(curve: Curve | None, steps: Mapping[str, Taken] | None = None) -> ink.Plot | None:
    """The mean temperature of each term, with a band from the lowest to the highest where they differ.

    By step where ``steps`` tells, and else by epoch.
    """
    if curve is None:
        return None
    told = dict(steps or {})
    for term, mean in curve.of("tau").items():
        low, high = (curve.of(kind).get(term, mean) for kind in ("tau_min", "tau_max"))
        told.setdefault(term, Taken(curve.steps, mean, low, high))
    if not told:
        return None
    figure, panel = _panel()
    wide = False
    for one, name in zip(told.values(), _inks(told), strict=True):
        if any(two - below > 1e-9 for below, two in zip(one.low, one.high, strict=True)):
            panel.fill_between(one.steps, one.low, one.high, color=ink.INK[name], alpha=0.2, linewidth=0)
            wide = True
        _line(panel, one.steps, one.mean, name)
    every = [v for one in told.values() for part in (one.mean, one.low, one.high) for v in part if math.isfinite(v)]
    panel.set_ylim(max(0.0, 0.9 * min(every)), 1.1 * max(every))
    note = "The band goes from the lowest to the highest." if wide else ""
    means = {term: one.mean for term, one in told.items()}
    return _finished(figure, panel, curve, means, name="taus", what="Temperature by step", note=note)


def shares(curve: Curve | None) -> ink.Plot | None:
    """The size of each term as a share of the sizes of all; ``None`` where there is one term only."""
    parts = {} if curve is None else curve.of("share")
    if curve is None or len(parts) < 2:
        return None
    figure, panel = _panel()
    for values, name in zip(parts.values(), _inks(parts), strict=True):
        _line(panel, curve.steps, values, name)
    panel.set_ylim(0, 1.02)
    panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return _finished(figure, panel, curve, parts, name="shares", what="Share of each term in the loss by step", note="")


def gradient_ratios(curve: Curve | None) -> ink.Plot | None:
    """The norm of each term's gradient over that of the hard loss, on a logarithmic axis; weights included."""
    ratios = {} if curve is None else {term: _above_zero(values) for term, values in curve.of("gradient_ratio").items()}
    ratios = {term: values for term, values in ratios.items() if any(map(math.isfinite, values))}
    if curve is None or not ratios:
        return None
    figure, panel = _panel()
    panel.set_yscale("log")
    panel.tick_params(which="minor", length=0, labelleft=False)
    for values, name in zip(ratios.values(), _inks(ratios), strict=True):
        known = [(step, value) for step, value in zip(curve.steps, values, strict=True) if math.isfinite(value)]
        _line(panel, [step for step, _ in known], [value for _, value in known], name)
    every = [v for values in ratios.values() for v in values if math.isfinite(v)]
    low, high = min(*every, 0.5), max(*every, 2.0)
    panel.set_ylim(0.7 * low, 1.4 * high)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    panel.axhline(1.0, color=ink.INK["muted"], linewidth=1, linestyle=ink.dash(2))
    note = (
        "Norm of each term's gradient in the student's weights, with its weight, over that of the hard loss; measured "
        "on one batch now and then. On the dotted line both pull alike."
    )
    return _finished(
        figure, panel, curve, ratios, name="ratios", what="Gradient of each term against the hard loss", note=note,
        log=True,
    )  # fmt: skip


def _panel() -> tuple[Any, Any]:
    figure = ink.blank(*_SIZE)
    return figure, ink.axes(figure, left=48, bottom=44, right=14, top=12)


def _inks(terms: Mapping[str, object]) -> list[str]:
    return [f"t{place % ink.SERIES + 1}" for place in range(len(terms))]


def _line(panel: Any, steps: Sequence[float], values: Sequence[float], name: str) -> None:
    mark = "o" if sum(map(math.isfinite, values)) < _FEW else None
    panel.plot(steps, values, color=ink.INK[name], linewidth=2, marker=mark, markersize=4)


def _finished(
    figure: Any, panel: Any, curve: Curve, drawn: Mapping[str, Sequence[float]], *, name: str, what: str, note: str,
    log: bool = False,
) -> ink.Plot:  # fmt: skip
    panel.set_xlim(0, curve.steps[-1] * 1.01)
    boundaries(panel, curve)
    step_axis(panel, log=log)
    words = [f"{term}, last {last(values):.3g}" for term, values in drawn.items()]
    keys = tuple(ink.Key(one, "line", text) for one, text in zip(_inks(drawn), words, strict=True))
    return ink.Plot(ink.svg(figure, name=name), f"{what}: {'; '.join(words)}.", note, keys)


def _above_zero(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(value if value > 0 else math.nan for value in values)
