"""The columns of the comparison: what each metric is called, how it is shown, and by what it is sorted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

from limbeck.report.compare.comparison import PairedGain, SeedMean, VariantResult
from limbeck.report.formatting import (
    MISSING,
    format_bytes,
    format_count,
    format_duration,
    format_fixed,
    format_percent,
    format_points,
)
from limbeck.report.results_view import format_percent_value
from limbeck.report.verdict import Outcome

__all__ = [
    "COST_COLUMNS",
    "METRIC_COLUMNS",
    "Column",
    "TableCell",
    "format_milliseconds",
    "non_empty_columns",
    "verdict_label",
]

_OUTCOME_LABELS: Final[dict[Outcome, str]] = {
    "improves": "improves", "degrades": "degrades", "inconclusive": "no significant difference", "unknown": "unknown",
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class TableCell:
    """One cell: its words, a second line such as an interval, and the number it is sorted by."""

    text: str
    detail: str = ""
    value: float | None = None


@final
@dataclass(frozen=True, slots=True)
class Column:
    """One column: heading, unit, which way is better (empty where neither is), and the cell of a variant."""

    heading: str
    unit: str
    better: str
    make_cell: Callable[[VariantResult], TableCell]


def non_empty_columns(columns: Sequence[Column], variants: Sequence[VariantResult]) -> list[Column]:
    """Those for which any variant has a value."""
    return [column for column in columns if any(column.make_cell(variant).value is not None for variant in variants)]


def verdict_label(variant: VariantResult) -> str:
    """The verdict in a word or two; empty for a teacher and for the baseline."""
    return _OUTCOME_LABELS[variant.outcome] if variant.is_student and variant.baseline else ""


def format_milliseconds(value: float | None) -> str:
    """A latency with as many digits as it deserves."""
    if value is None:
        return MISSING
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _mean_cell(
    getter: Callable[[VariantResult], SeedMean | None], formatter: Callable[[float | None], str]
) -> Callable[[VariantResult], TableCell]:
    def make_cell(variant: VariantResult) -> TableCell:
        mean = getter(variant)
        if mean is None:
            return TableCell(MISSING)
        interval_text = (
            f"{formatter(mean.low)} to {formatter(mean.high)}" if mean.low is not None and mean.high is not None else ""
        )
        return TableCell(formatter(mean.mean), interval_text, mean.mean)

    return make_cell


def _value_cell(
    getter: Callable[[VariantResult], float | None], formatter: Callable[[float | None], str]
) -> Callable[[VariantResult], TableCell]:
    return lambda variant: TableCell(formatter(getter(variant)), "", getter(variant))


def _gain_cell(variant: VariantResult) -> TableCell:
    gain: PairedGain | None = variant.gain
    if gain is None:
        return TableCell(MISSING)
    interval = gain.interval
    return TableCell(
        format_points(gain.mean),
        f"{format_points(interval[0])} to {format_points(interval[1])}" if interval else "",
        gain.mean,
    )


def _gap_cell(variant: VariantResult) -> TableCell:
    if variant.gap_recovered is None:
        return TableCell(MISSING)
    low, high = variant.gap_recovered.low, variant.gap_recovered.high
    interval_text = (
        f"{format_percent(low, digits=0)} to {format_percent(high, digits=0)}"
        if low is not None and high is not None
        else ""
    )
    return TableCell(
        format_percent(variant.gap_recovered.fraction, digits=0),
        interval_text.replace(" %", ""),
        variant.gap_recovered.fraction,
    )


def _format_integer(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


METRIC_COLUMNS: Final = (
    Column("Accuracy", "%", "higher", _mean_cell(lambda variant: variant.accuracy, format_percent_value)),
    Column("Difference", "points", "higher", _gain_cell),
    Column("Gap recovered", "", "higher", _gap_cell),
    Column("Macro F1", "%", "higher", _mean_cell(lambda variant: variant.macro_f1, format_percent_value)),
    Column("NLL", "nats", "lower", _mean_cell(lambda variant: variant.nll, format_fixed)),
    Column("ECE", "", "lower", _mean_cell(lambda variant: variant.ece, format_fixed)),
    Column("Parameters", "", "lower", _value_cell(lambda variant: variant.parameters, format_count)),
    Column("Latency", "ms", "lower", _value_cell(lambda variant: variant.latency_ms, format_milliseconds)),
)
COST_COLUMNS: Final = (
    Column("Steps", "", "lower", _value_cell(lambda variant: variant.steps, _format_integer)),
    Column("Training time", "", "lower", _value_cell(lambda variant: variant.resources.seconds, format_duration)),
    Column("CPU time", "", "lower", _value_cell(lambda variant: variant.resources.cpu_seconds, format_duration)),
    Column("GPU time", "", "lower", _value_cell(lambda variant: variant.resources.gpu_seconds, format_duration)),
    Column("Energy", "J", "lower", _value_cell(lambda variant: variant.resources.joules, _format_integer)),
    Column("Size", "", "lower", _value_cell(lambda variant: variant.bytes, format_bytes)),
    Column("FLOPs per sample", "", "lower", _value_cell(lambda variant: variant.flops, format_count)),
)
