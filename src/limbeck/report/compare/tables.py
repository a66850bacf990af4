r"""The columns of a comparison, and its table as CSV, Markdown and LaTeX (booktabs).

Spreadsheets evaluate cells that begin with ``=``, ``+``, ``-`` or ``@`` (`OWASP, CSV injection
<https://owasp.org/www-community/attacks/CSV_Injection>`_), so such text gets a leading apostrophe; numbers stay.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from operator import attrgetter
from typing import Final, Literal, NamedTuple

from limbeck.report.compare.comparison import Comparison, SeedMean, VariantResult
from limbeck.report.formatting import (
    MISSING,
    escape_markdown,
    format_bytes,
    format_count,
    format_duration,
    format_fixed,
    format_integer,
    format_interval,
    format_milliseconds,
    format_percent,
    format_percent_value,
    format_points,
)
from limbeck.report.verdict import Outcome

_Formatter = Callable[[float | None], str]
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
    """A column: heading, unit, the better direction, and the cell of a variant."""

    heading: str
    unit: str
    better: Literal["higher", "lower"]
    make_cell: Callable[[VariantResult], TableCell]


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
    """A row for each variant: unrounded numbers, accuracies as fractions, differences in points; CRLF line ends."""
    buffer = io.StringIO()
    rows = [_csv_row(variant, comparison) for variant in comparison.variants]
    table = csv.DictWriter(buffer, list(dict.fromkeys(name for row in rows for name in row)))
    table.writeheader()
    table.writerows(rows)
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
        " & ".join(" ".join(text.split()).translate(_LATEX_ESCAPES) for text in row) + r" \\" for row in table
    )
    verdicts = [variant.verdict for variant in comparison.variants if variant.verdict]
    notes = (f"{comparison.title}, {comparison.split} split", *verdicts, comparison.rule)
    return "\n".join(
        [*(f"% {' '.join(text.split())}" for text in notes),
         r"\begin{tabular}{l" + "r" * (len(table[0]) - 2) + "l}", r"\toprule", heading, r"\midrule", *rows,
         r"\bottomrule", r"\end{tabular}", ""]
    )  # fmt: skip


def _text_rows(comparison: Comparison) -> list[list[str]]:
    """The headings, and a row of text for each variant."""
    columns = non_empty_columns((*METRIC_COLUMNS, *COST_COLUMNS), comparison.variants)
    rows = [["Variant", "Seeds", *map(format_heading, columns), "Verdict"]]
    for variant in comparison.variants:
        cells = [column.make_cell(variant) for column in columns]
        texts = [f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in cells]
        rows.append([variant.name, str(comparison.count_seeds(variant.name)), *texts, verdict_label(variant)])
    return rows


def _csv_row(variant: VariantResult, comparison: Comparison) -> dict[str, str | float | int | None]:
    row: dict[str, str | float | int | None] = {
        "variant": _escape_csv(variant.name), "role": variant.role, "title": _escape_csv(variant.title),
        "note": _escape_csv(variant.note), "baseline": _escape_csv(variant.baseline or ""), "split": comparison.split,
        "num_seeds": comparison.count_seeds(variant.name),
    }  # fmt: skip
    for name in ("accuracy", "macro_f1", "nll", "ece"):
        mean: SeedMean | None = getattr(variant, name)
        low, high = (mean.low, mean.high) if mean else (None, None)
        row |= {name: mean.mean if mean else None, f"{name}_low": low, f"{name}_high": high}
    gain, gap = variant.gain, variant.gap_recovered
    sample_low, sample_high = (gain and gain.sample_interval) or (None, None)
    return row | {
        "gain_points": gain and gain.mean, "gain_low": gain and gain.low, "gain_high": gain and gain.high,
        "gain_t_low": gain and gain.t_low, "gain_t_high": gain and gain.t_high, "gain_sample_low": sample_low,
        "gain_sample_high": sample_high, "gain_p_value": gain and gain.p_value,
        "gain_num_seeds": gain and gain.num_seeds, "gap_recovered": gap and gap.fraction, "gap_low": gap and gap.low,
        "gap_high": gap and gap.high, "outcome": variant.outcome if variant.verdict else "",
        "verdict_text": _escape_csv(variant.verdict), "parameters": variant.parameters, "flops": variant.flops,
        "bytes": variant.bytes, "latency_ms": variant.latency_ms, "steps": variant.steps, **asdict(variant.resources),
    }  # fmt: skip


def _escape_csv(text: str) -> str:
    text = "".join(letter for letter in text if letter >= " " or letter in "\t\r\n")
    return f"'{text}" if re.match(r"[=+\-@\t\r\n＝＋－＠]", text) else text


def _mean_column(
    heading: str, unit: str, better: Literal["higher", "lower"], metric: str, formatter: _Formatter
) -> Column:
    """A mean over seeds with its interval."""

    def make_cell(variant: VariantResult) -> TableCell:
        mean: SeedMean | None = getattr(variant, metric)
        if mean is None:
            return TableCell(MISSING)
        has_interval = mean.low is not None and mean.high is not None
        detail = f"{formatter(mean.low)} to {formatter(mean.high)}" if has_interval else ""
        return TableCell(formatter(mean.mean), detail, mean.mean)

    return Column(heading, unit, better, make_cell)


def _cost_column(heading: str, unit: str, attribute: str, formatter: _Formatter) -> Column:
    get_value = attrgetter(attribute)
    return Column(
        heading, unit, "lower", lambda variant: TableCell(formatter(get_value(variant)), "", get_value(variant))
    )


def _gain_cell(variant: VariantResult) -> TableCell:
    gain = variant.gain
    if gain is None:
        return TableCell(MISSING)
    return TableCell(format_points(gain.mean), format_interval(*gain.interval) if gain.interval else "", gain.mean)


def _gap_cell(variant: VariantResult) -> TableCell:
    gap = variant.gap_recovered
    if gap is None:
        return TableCell(MISSING)
    ends = " to ".join(format_percent_value(end, digits=0) for end in (gap.low, gap.high))
    detail = "" if gap.low is None or gap.high is None else ends
    return TableCell(format_percent(gap.fraction, digits=0), detail, gap.fraction)


METRIC_COLUMNS: Final = (
    _mean_column("Accuracy", "%", "higher", "accuracy", format_percent_value),
    Column("Difference", "points", "higher", _gain_cell),
    Column("Gap recovered", "", "higher", _gap_cell),
    _mean_column("Macro F1", "%", "higher", "macro_f1", format_percent_value),
    _mean_column("NLL", "nats", "lower", "nll", format_fixed),
    _mean_column("ECE", "", "lower", "ece", format_fixed),
    _cost_column("Parameters", "", "parameters", format_count),
    _cost_column("Latency", "ms", "latency_ms", format_milliseconds),
)
COST_COLUMNS: Final = (
    _cost_column("Steps", "", "steps", format_integer),
    _cost_column("Training time", "", "resources.seconds", format_duration),
    _cost_column("CPU time", "", "resources.cpu_seconds", format_duration),
    _cost_column("GPU time", "", "resources.gpu_seconds", format_duration),
    _cost_column("Energy", "J", "resources.joules", format_integer),
    _cost_column("Size", "", "bytes", format_bytes),
    _cost_column("FLOPs per sample", "", "flops", format_count),
)
