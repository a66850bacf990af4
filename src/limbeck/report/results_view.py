"""The figures of a record as words, for the headline and the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from limbeck.report.formatting import NONE, amount, fixed, percent, points, size, times
from limbeck.report.verdict import judge

if TYPE_CHECKING:
    from limbeck.report.record import Model, Record

__all__ = ["Row", "Tile", "comparison", "hundred", "span", "tiles"]


@final
@dataclass(frozen=True, slots=True)
class Tile:
    """A key figure: what it is, the figure, and what one must know to believe it."""

    label: str
    value: str
    unit: str = ""
    note: str = ""


@final
@dataclass(frozen=True, slots=True)
class Row:
    """A line of the comparison: a cell for each model, then distilled against alone and against the teacher."""

    label: str
    unit: str
    better: str
    cells: tuple[str, ...]
    alone: str
    teacher: str


def tiles(record: Record) -> list[Tile]:
    """Gain, share of the gap, how much smaller, how much faster."""
    found, teacher, student = record.verdict, record.teacher, record.distilled
    gain = found.gain_points if found else None
    ends = found.interval_points if found else None
    judgement = judge(ends)
    note = (
        f"95 % interval {points(ends[0])} to {points(ends[1])}" if ends and judgement != "unknown" else "not measured"
    )
    shown = [Tile("Gain over the same student alone", points(gain), "points" if gain is not None else "", note)]
    gap = found.gap_recovered if found else None
    if gap is None:
        why = "not measured" if record.alone is None or gain is None else "the teacher is not clearly better than alone"
    else:
        why = "of the way from alone to the teacher"
        why += "; the interval of the gain includes zero, so this may be zero as well" if judgement == "open" else ""
        why = "distillation led away from the teacher" if judgement == "hurt" else why
    shown.append(Tile("Gap to the teacher recovered", percent(gap, digits=0), "", why))
    if teacher is None:
        return shown
    less, more = sorted((student.parameters or 0, teacher.parameters or 0))
    smaller = (student.parameters or 0) <= (teacher.parameters or 0)
    shown.append(
        Tile(
            f"{'Smaller' if smaller else 'Larger'} than the teacher" if less else "Size against the teacher",
            times(more, less), "", f"{amount(student.parameters)} against {amount(teacher.parameters)} parameters",
        )
    )  # fmt: skip
    fast, slow = (one.latency_ms.median if one.latency_ms else None for one in (student, teacher))
    quicker = (fast or 0) <= (slow or 0)
    shown.append(
        Tile(
            f"{'Faster' if quicker else 'Slower'} than the teacher" if fast and slow else "Speed against the teacher",
            times(slow, fast) if quicker else times(fast, slow), "",
            f"{_ms(fast)} against {_ms(slow)} ms, median" if fast and slow else "latency was not measured",
        )
    )  # fmt: skip
    return shown


def span(record: Record) -> dict[str, float] | None:
    """Where the interval of the gain, its middle and zero lie on a line from 0 to 100; for the small drawing."""
    found = record.verdict
    if not found or not found.interval_points or found.gain_points is None:
        return None
    low, high = found.interval_points
    if low is None or high is None:
        return None
    reach = max(abs(low), abs(high), 1e-9) * 1.15
    least, most = min(low, -0.25 * reach), max(high, 0.25 * reach)
    place = {"low": low, "high": high, "gain": found.gain_points, "zero": 0.0}
    pad = 0.06 * (most - least)
    return {key: round(100 * (x - least + pad) / (most - least + 2 * pad), 1) for key, x in place.items()}


def comparison(record: Record) -> tuple[list[Row], list[Row]]:
    """The lines of quality and of cost. A figure that no model has is left out."""

    def quality(pick: str, label: str, unit: str, better: str, show: Callable[[float | None], str]) -> Row | None:
        def get(model: Model | None) -> float | None:
            value: float | None = getattr(record.quality(model), pick, None)
            return value

        return _row(record, label, unit, better, get, show, _difference(show))

    def cost(
        get: Callable[[Model], float | None], label: str, unit: str, show: Callable[[float | None], str]
    ) -> Row | None:
        return _row(record, label, unit, "lower", lambda model: model and get(model), show, _ratio)

    good = [
        quality("top1", "Top-1 accuracy", "%", "higher", hundred),
        quality("top5", "Top-5 accuracy", "%", "higher", hundred),
        quality("macro_f1", "Macro F1", "%", "higher", hundred),
        quality("nll", "NLL", "nats", "lower", fixed),
        quality("ece", "Calibration error, ECE", "", "lower", fixed),
    ]
    dear = [
        cost(lambda model: model.parameters, "Parameters", "", amount),
        cost(lambda model: model.flops, "FLOPs", "", amount),
        cost(lambda model: model.latency_ms and model.latency_ms.median, "Latency, median", "ms", _ms),
        cost(lambda model: model.latency_ms and model.latency_ms.p95, "Latency, p95", "ms", _ms),
        cost(lambda model: model.bytes, "Size of the weights", "", size),
    ]
    return [row for row in good if row], [row for row in dear if row]


def hundred(value: float | None) -> str:
    """A fraction as per cent, where the sign stands in the heading."""
    return percent(value).removesuffix(" %")


def _row(
    record: Record, label: str, unit: str, better: str, get: Callable[[Model | None], float | None],
    show: Callable[[float | None], str], against: Callable[[float | None, float | None], str],
) -> Row | None:  # fmt: skip
    values = [get(model) for _, model in record.ordered()]
    if all(value is None for value in values):
        return None
    mine = get(record.distilled)
    return Row(
        label, unit, better, tuple(show(value) for value in values),
        against(mine, get(record.alone)), against(mine, get(record.teacher)),
    )  # fmt: skip


def _difference(show: Callable[[float | None], str]) -> Callable[[float | None, float | None], str]:
    def against(mine: float | None, other: float | None) -> str:
        if mine is None or other is None:
            return NONE
        return points(100 * (mine - other)) if show is hundred else points(mine - other, digits=3)

    return against


def _ratio(mine: float | None, other: float | None) -> str:
    if not mine or not other:
        return NONE
    if mine == other:
        return "="
    if abs(mine / other - 1) < 0.05:
        return "≈"
    return f"÷{times(other, mine)[:-1]}" if mine < other else f"×{times(mine, other)[:-1]}"


def _ms(value: float | None) -> str:
    return (
        NONE if value is None else f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:,.0f}"
    )
