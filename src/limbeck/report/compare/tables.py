r"""The table to take away: CSV with every figure in full, Markdown and LaTeX (booktabs) as on the page.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-`` or ``@`` (`OWASP, CSV injection
<https://owasp.org/www-community/attacks/CSV_Injection>`_), so words that do get an apostrophe in front; numbers stay.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Final

from limbeck.report.compare.columns import COST_COLUMNS, METRIC_COLUMNS, Column, non_empty_columns, verdict_label
from limbeck.report.compare.comparison import Comparison, SeedMean, VariantResult

__all__ = ["to_csv", "to_latex", "to_markdown"]

_LATEX_ESCAPES: Final = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "^": r"\textasciicircum{}",
    "_": r"\_", "~": r"\textasciitilde{}", "%": r"\%", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "−": "$-$", "–": "--", "×": r"$\times$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "\u00a0": "~",
}  # fmt: skip


def to_csv(comparison: Comparison) -> str:
    """A row for each variant, unrounded, accuracies as fractions, differences in points; lines end with CRLF."""
    buffer = io.StringIO()
    rows = [_csv_row(variant, comparison) for variant in comparison.variants]
    table = csv.DictWriter(buffer, list(dict.fromkeys(name for row in rows for name in row)))
    table.writeheader()
    table.writerows(rows)
    return buffer.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """A table as GitHub shows it, and the verdicts under it."""
    columns = non_empty_columns((*METRIC_COLUMNS, *COST_COLUMNS), comparison.variants)
    headings = ["Variant", "Seeds", *map(_format_heading, columns), "Verdict"]
    lines = [_markdown_row(headings), _markdown_row(["---", *["---:"] * (len(columns) + 1), "---"])]
    lines += [
        _markdown_row([_escape_markdown(text) for text in _table_cells(variant, columns, comparison)])
        for variant in comparison.variants
    ]
    verdicts = [f"- {_escape_markdown(variant.verdict)}" for variant in comparison.variants if variant.verdict]
    return "\n".join([*lines, "", *verdicts, "", f"{_escape_markdown(comparison.rule)}", ""])


def to_latex(comparison: Comparison) -> str:
    r"""A ``tabular`` for booktabs (``\usepackage{booktabs}``); verdicts and rule are in comments above it."""
    columns = non_empty_columns((*METRIC_COLUMNS, *COST_COLUMNS), comparison.variants)
    headings = ["Variant", "Seeds", *map(_format_heading, columns), "Verdict"]
    rows = [" & ".join(_escape_latex(text) for text in row) + r" \\" for row in
            (headings, *(_table_cells(variant, columns, comparison) for variant in comparison.variants))]  # fmt: skip
    verdicts = [variant.verdict for variant in comparison.variants if variant.verdict]
    notes = [
        f"% {_collapse_whitespace(text)}"
        for text in (f"{comparison.title}, {comparison.split} split", *verdicts, comparison.rule)
    ]
    return "\n".join(
        [*notes, r"\begin{tabular}{l" + "r" * (len(columns) + 1) + "l}", r"\toprule", rows[0], r"\midrule", *rows[1:],
         r"\bottomrule", r"\end{tabular}", ""]
    )  # fmt: skip


def _csv_row(variant: VariantResult, comparison: Comparison) -> dict[str, str | float | int | None]:
    gain, gap_recovered = variant.gain, variant.gap_recovered
    row: dict[str, str | float | int | None] = {
        "variant": _escape_csv(variant.name), "role": variant.role, "title": _escape_csv(variant.title),
        "note": _escape_csv(variant.note),
        "baseline": _escape_csv(variant.baseline or ""), "split": comparison.split,
        "num_seeds": _count_seeds(variant, comparison),
    }  # fmt: skip
    for name, mean in (
        ("accuracy", variant.accuracy),
        ("macro_f1", variant.macro_f1),
        ("nll", variant.nll),
        ("ece", variant.ece),
    ):
        row |= _mean_columns(name, mean)
    row |= {
        "gain_points": gain.mean if gain else None, "gain_low": gain.low if gain else None,
        "gain_high": gain.high if gain else None, "gain_t_low": gain.t_low if gain else None,
        "gain_t_high": gain.t_high if gain else None,
        "gain_sample_low": gain.sample_interval[0] if gain and gain.sample_interval else None,
        "gain_sample_high": gain.sample_interval[1] if gain and gain.sample_interval else None,
        "gain_p_value": gain.p_value if gain else None, "gain_num_seeds": gain.num_seeds if gain else None,
        "gap_recovered": gap_recovered.fraction if gap_recovered else None,
        "gap_low": gap_recovered.low if gap_recovered else None,
        "gap_high": gap_recovered.high if gap_recovered else None,
        "outcome": variant.outcome if variant.verdict else "", "verdict_text": _escape_csv(variant.verdict),
        "parameters": variant.parameters, "flops": variant.flops, "bytes": variant.bytes,
        "latency_ms": variant.latency_ms,
        "steps": variant.steps, "seconds": variant.resources.seconds, "cpu_seconds": variant.resources.cpu_seconds,
        "gpu_seconds": variant.resources.gpu_seconds, "joules": variant.resources.joules,
    }  # fmt: skip
    return row


def _mean_columns(name: str, mean: SeedMean | None) -> dict[str, str | float | int | None]:
    return {
        name: mean.mean if mean else None, f"{name}_low": mean.low if mean else None,
        f"{name}_high": mean.high if mean else None,
    }  # fmt: skip


def _table_cells(variant: VariantResult, columns: list[Column], comparison: Comparison) -> list[str]:
    cells = [column.make_cell(variant) for column in columns]
    texts = [f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in cells]
    return [variant.name, str(_count_seeds(variant, comparison)), *texts, verdict_label(variant)]


def _count_seeds(variant: VariantResult, comparison: Comparison) -> int:
    return sum(trial.variant == variant.name and trial.state == "done" for trial in comparison.trials)


def _format_heading(column: Column) -> str:
    return f"{column.heading}, {column.unit}" if column.unit else column.heading


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _collapse_whitespace(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\u00a0", " ")).strip()


def _escape_csv(text: str) -> str:
    text = "".join(letter for letter in text if letter >= " " or letter in "\t\r\n")
    return f"'{text}" if re.match(r"[=+\-@\t\r\n＝＋－＠]", text) else text


def _escape_markdown(text: str) -> str:
    text = _collapse_whitespace(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


def _escape_latex(text: str) -> str:
    return "".join(_LATEX_ESCAPES.get(letter, letter) for letter in _collapse_whitespace(text))
