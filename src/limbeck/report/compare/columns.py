"""The columns of the comparison: what each figure is called, how it is shown, and by what it is sorted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

from limbeck.report.compare.comparison import Arm, Gain, Mean
from limbeck.report.formatting import NONE, amount, duration, fixed, percent, points, size
from limbeck.report.results_view import hundred

__all__ = ["COSTS", "QUALITY", "Column", "Figure", "milliseconds", "shown", "verdict"]

_WORDS: Final = {"helps": "helps", "hurts": "hurts", "open": "cannot be told apart", "unknown": "not known"}


@final
@dataclass(frozen=True, slots=True)
class Figure:
    """One cell: its words, a second line such as an interval, and the number it is sorted by."""

    text: str
    second: str = ""
    value: float | None = None


@final
@dataclass(frozen=True, slots=True)
class Column:
    """One column: heading, unit, which way is better (empty where neither is), and the cell of an arm."""

    heading: str
    unit: str
    better: str
    cell: Callable[[Arm], Figure]


def shown(columns: Sequence[Column], arms: Sequence[Arm]) -> list[Column]:
    """Those of which any arm has a figure."""
    return [column for column in columns if any(column.cell(arm).value is not None for arm in arms)]


def verdict(arm: Arm) -> str:
    """The verdict in a word or two; empty for a teacher and for the control."""
    return _WORDS[arm.judgement] if arm.student and arm.control else ""


def milliseconds(value: float | None) -> str:
    """A latency with as many digits as it deserves."""
    if value is None:
        return NONE
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _mean(pick: Callable[[Arm], Mean | None], show: Callable[[float | None], str]) -> Callable[[Arm], Figure]:
    def cell(arm: Arm) -> Figure:
        found = pick(arm)
        if found is None:
            return Figure(NONE)
        ends = f"{show(found.low)} to {show(found.high)}" if found.low is not None and found.high is not None else ""
        return Figure(show(found.mean), ends, found.mean)

    return cell


def _plain(pick: Callable[[Arm], float | None], show: Callable[[float | None], str]) -> Callable[[Arm], Figure]:
    return lambda arm: Figure(show(pick(arm)), "", pick(arm))


def _gain(arm: Arm) -> Figure:
    gain: Gain | None = arm.gain
    if gain is None:
        return Figure(NONE)
    ends = gain.interval
    return Figure(points(gain.mean), f"{points(ends[0])} to {points(ends[1])}" if ends else "", gain.mean)


def _gap(arm: Arm) -> Figure:
    if arm.gap is None:
        return Figure(NONE)
    low, high = arm.gap.low, arm.gap.high
    ends = f"{percent(low, digits=0)} to {percent(high, digits=0)}" if low is not None and high is not None else ""
    return Figure(percent(arm.gap.share, digits=0), ends.replace(" %", ""), arm.gap.share)


def _count(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


QUALITY: Final = (
    Column("Accuracy", "%", "higher", _mean(lambda arm: arm.top1, hundred)),
    Column("Difference", "points", "higher", _gain),
    Column("Gap recovered", "", "higher", _gap),
    Column("Macro F1", "%", "higher", _mean(lambda arm: arm.macro_f1, hundred)),
    Column("NLL", "nats", "lower", _mean(lambda arm: arm.nll, fixed)),
    Column("ECE", "", "lower", _mean(lambda arm: arm.ece, fixed)),
    Column("Parameters", "", "lower", _plain(lambda arm: arm.parameters, amount)),
    Column("Latency", "ms", "lower", _plain(lambda arm: arm.latency, milliseconds)),
)
COSTS: Final = (
    Column("Steps", "", "lower", _plain(lambda arm: arm.steps, _count)),
    Column("Training time", "", "lower", _plain(lambda arm: arm.spent.seconds, duration)),
    Column("CPU time", "", "lower", _plain(lambda arm: arm.spent.cpu_seconds, duration)),
    Column("GPU time", "", "lower", _plain(lambda arm: arm.spent.gpu_seconds, duration)),
    Column("Energy", "J", "lower", _plain(lambda arm: arm.spent.joules, _count)),
    Column("Size", "", "lower", _plain(lambda arm: arm.bytes, size)),
    Column("FLOPs of an answer", "", "lower", _plain(lambda arm: arm.flops, amount)),
)
