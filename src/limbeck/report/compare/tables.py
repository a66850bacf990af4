r"""The columns of a comparison, and its table as CSV, Markdown and LaTeX (booktabs).

Spreadsheets evaluate cells that begin with ``=``, ``+``, ``-`` or ``@`` (`OWASP, CSV injection
<https://owasp.org/www-community/attacks/CSV_Injection>`_), so such text gets a leading apostrophe; numbers stay.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple

from limbeck.core.metric_spec import MetricSpec
from limbeck.report.compare.comparison import Comparison, PairedGain, SeedMean, VariantResult
from limbeck.report.formatting import (
    escape_csv,
    escape_markdown,
    format_bytes,
    format_count,
    format_duration,
    format_gain_number,
    format_integer,
    format_metric_number,
    format_milliseconds,
    format_percent_value,
)
from limbeck.report.task_metrics import TaskMetrics
from limbeck.report.verdict import Outcome
from limbeck.utils.console import escape_controls

_OUTCOME_LABELS: Final[dict[Outcome, str]] = {
    "improves": "improves", "degrades": "degrades", "inconclusive": "no significant difference", "unknown": "unknown",
}  # fmt: skip
_LATEX_ESCAPES: Final = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "^": r"\textasciicircum{}",
    "_": r"\_", "~": r"\textasciitilde{}", "%": r"\%", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "−": "$-$", "–": "--", "×": r"$\times$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "\u00a0": "~",
})  # fmt: skip


class TableCell(NamedTuple):
    """A cell: its text, a second line such as an interval, and the number that it is sorted by."""

    text: str
    detail: str = ""
    value: float | None = None


class Column(NamedTuple):
    """A column: heading, unit, the better direction, its value of a variant, and the format of a number.

    A value is a number, a mean over seeds, or a gain, whose interval is the second line of its cell.
    """

    heading: str
    unit: str
    better: Literal["higher", "lower"]
    get_value: Callable[[VariantResult], Any]
    formatter: Callable[[float | None], str]

    def make_cell(self, variant: VariantResult) -> TableCell:
        """The cell of a variant."""
        value = self.get_value(variant)
        if isinstance(value, PairedGain):
            detail = " to ".join(map(self.formatter, value.interval)) if value.interval else ""
            return TableCell(self.formatter(value.mean), detail, value.mean)
        number = value.mean if isinstance(value, SeedMean) else value
        return TableCell(self.formatter(number), "", number)


def metric_columns(metrics: TaskMetrics, variants: Sequence[VariantResult]) -> list[Column]:
    """The primary metric with the gain and the recovered gap, the other metrics, and the cost of inference.

    Only gains have intervals, all of one kind: over seeds where any variant has several, else over test samples.
    """
    primary, by_metric = metrics.primary_spec, [_metric_column(spec) for spec in metrics.metric_specs]
    has_seeds = any(variant.gain and variant.gain.resampled_unit == "seeds" for variant in variants)

    def get_gain(variant: VariantResult) -> PairedGain | None:
        gain = variant.gain
        return gain and (replace(gain, sample_interval=None) if has_seeds else gain)

    return [
        _metric_column(primary),
        Column(
            "Gain", primary.difference_unit, "higher", get_gain, partial(format_gain_number, metric=primary)
        ),
        Column(
            "Gap recovered", "%", "higher", attrgetter("significant_gap"), partial(format_percent_value, digits=0)
        ),
        *(column for column in by_metric if column.heading != primary.heading),
        Column("Parameters", "", "lower", attrgetter("parameters"), format_count),
        Column("Latency", "ms", "lower", attrgetter("latency_ms"), format_milliseconds),
    ]  # fmt: skip


def _metric_column(metric: MetricSpec) -> Column:
    return Column(
        metric.heading, metric.unit, "higher" if metric.higher_is_better else "lower",
        lambda variant: variant.metrics.get(metric.name), partial(format_metric_number, metric=metric),
    )  # fmt: skip


def non_empty_columns(columns: Sequence[Column], variants: Sequence[VariantResult]) -> list[Column]:
    """The columns in which any variant has a value."""
    return [column for column in columns if any(column.make_cell(variant).value is not None for variant in variants)]


def verdict_label(variant: VariantResult) -> str:
    """The verdict in a few words; empty for a teacher and for the baseline."""
    return _OUTCOME_LABELS[variant.outcome] if variant.is_student and variant.baseline else ""


def format_heading(column: Column) -> str:
    """The heading with its unit."""
    return f"{column.heading}, {column.unit}" if column.unit else column.heading


def to_csv(comparison: Comparison) -> str:
    """A row for each variant: unrounded numbers, metrics in their own scale, gains as shown; CRLF line ends."""
    buffer = io.StringIO()
    rows = [_csv_row(variant, comparison) for variant in comparison.variants]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    csv.writer(buffer).writerow(map(escape_csv, columns))
    csv.DictWriter(buffer, columns).writerows(rows)
    return buffer.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """A table in GitHub Markdown, followed by the verdicts and the rule."""
    headings, *rows = _text_rows(comparison)
    rule_row = ["---", *["---:"] * (len(headings) - 2), "---"]
    lines = [headings, rule_row, *([escape_markdown(text) for text in row] for row in rows)]
    verdicts = [f"- {escape_markdown(variant.verdict)}" for variant in comparison.variants if variant.verdict]
    return "\n".join(
        [*(f"| {' | '.join(row)} |" for row in lines), "", *verdicts, "", escape_markdown(comparison.rule), ""]
    )


def to_latex(comparison: Comparison) -> str:
    r"""A ``tabular`` for booktabs (``\usepackage{booktabs}``); verdicts and rule are comments above it."""
    table = _text_rows(comparison)
    heading, *rows = (
        " & ".join(escape_controls(" ".join(text.split())).translate(_LATEX_ESCAPES) for text in row) + r" \\"
        for row in table
    )
    verdicts = [variant.verdict for variant in comparison.variants if variant.verdict]
    notes = (f"{comparison.title}, {comparison.split} split", *verdicts, comparison.rule)
    return "\n".join(
        [*(f"% {escape_controls(' '.join(text.split()))}" for text in notes),
         r"\begin{tabular}{l" + "r" * (len(table[0]) - 2) + "l}", r"\toprule", heading, r"\midrule", *rows,
         r"\bottomrule", r"\end{tabular}", ""]
    )  # fmt: skip


def _text_rows(comparison: Comparison) -> list[list[str]]:
    """The headings, and a row of text for each variant."""
    columns = non_empty_columns(
        (*metric_columns(comparison.task_metrics, comparison.variants), *COST_COLUMNS), comparison.variants
    )
    rows = [["Variant", "Seeds", *map(format_heading, columns), "Verdict"]]
    for variant in comparison.variants:
        cells = [column.make_cell(variant) for column in columns]
        texts = [f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in cells]
        rows.append([variant.name, str(comparison.count_seeds(variant.name)), *texts, verdict_label(variant)])
    return rows


def _csv_row(variant: VariantResult, comparison: Comparison) -> dict[str, str | float | int | None]:
    row: dict[str, str | float | int | None] = {
        "variant": escape_csv(variant.name), "role": variant.role, "title": escape_csv(variant.title),
        "note": escape_csv(variant.note), "baseline": escape_csv(variant.baseline or ""), "split": comparison.split,
        "num_seeds": comparison.count_seeds(variant.name),
    }  # fmt: skip
    for name in comparison.task_metrics.metric_info:
        mean = variant.metrics.get(name)
        low, high = (mean.low, mean.high) if mean else (None, None)
        row |= {name: mean.mean if mean else None, f"{name}_low": low, f"{name}_high": high}
    gain, gap = variant.gain, variant.gap_recovered
    sample_low, sample_high = (gain and gain.sample_interval) or (None, None)
    return row | {
        "gain": gain and gain.mean, "gain_low": gain and gain.low, "gain_high": gain and gain.high,
        "gain_t_low": gain and gain.t_low, "gain_t_high": gain and gain.t_high, "gain_sample_low": sample_low,
        "gain_sample_high": sample_high, "gain_p_value": gain and gain.p_value,
        "gain_num_seeds": gain and gain.num_seeds, "gap_recovered": gap and gap.fraction, "gap_low": gap and gap.low,
        "gap_high": gap and gap.high, "outcome": variant.outcome if variant.verdict else "",
        "verdict_text": escape_csv(variant.verdict), "parameters": variant.parameters, "flops": variant.flops,
        "bytes": variant.bytes, "latency_ms": variant.latency_ms,
        "latency_low": variant.latency and variant.latency.low,
        "latency_high": variant.latency and variant.latency.high, "steps": variant.steps, **asdict(variant.resources),
    }  # fmt: skip


COST_COLUMNS: Final = (
    Column("Steps", "", "lower", attrgetter("steps"), format_integer),
    Column("Training time", "", "lower", attrgetter("resources.seconds"), format_duration),
    Column("CPU time", "", "lower", attrgetter("resources.cpu_seconds"), format_duration),
    # Without a GPU it is 0, which is no measurement.
    Column("GPU time", "", "lower", lambda variant: variant.resources.gpu_seconds or None, format_duration),
    Column("Energy", "J", "lower", attrgetter("resources.joules"), format_integer),
    Column("Size", "", "lower", attrgetter("bytes"), format_bytes),
    Column("FLOPs per sample", "", "lower", attrgetter("flops"), format_count),
)
