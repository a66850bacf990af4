r"""The table to take away: CSV with every figure in full, Markdown and LaTeX (booktabs) as on the page.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-`` or ``@`` (`OWASP, CSV injection
<https://owasp.org/www-community/attacks/CSV_Injection>`_), so words that do get an apostrophe in front; numbers stay.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Final

from limbeck.report.compare.columns import COSTS, QUALITY, Column, shown, verdict
from limbeck.report.compare.comparison import Arm, Comparison, Mean

__all__ = ["csv_text", "latex_text", "markdown_text"]

_LATEX: Final = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "^": r"\textasciicircum{}",
    "_": r"\_", "~": r"\textasciitilde{}", "%": r"\%", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "−": "$-$", "–": "--", "×": r"$\times$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "\u00a0": "~",
}  # fmt: skip


def csv_text(found: Comparison) -> str:
    """A row for each arm, numbers unrounded, accuracies as fractions, differences in points; lines end with CRLF."""
    out = io.StringIO()
    rows = [_row(arm, found) for arm in found.arms]
    table = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
    table.writeheader()
    table.writerows(rows)
    return out.getvalue()


def markdown_text(found: Comparison) -> str:
    """A table as GitHub shows it, and the verdicts under it."""
    columns = shown((*QUALITY, *COSTS), found.arms)
    heads = ["Arm", "Seeds", *map(_heading, columns), "Verdict"]
    lines = [_line(heads), _line(["---", *["---:"] * (len(columns) + 1), "---"])]
    lines += [_line([_markdown(text) for text in _cells(arm, columns, found)]) for arm in found.arms]
    said = [f"- {_markdown(arm.told)}" for arm in found.arms if arm.told]
    return "\n".join([*lines, "", *said, "", f"{_markdown(found.rule)}", ""])


def latex_text(found: Comparison) -> str:
    r"""A ``tabular`` for booktabs (``\usepackage{booktabs}``); sentences and rule stand in comments above it."""
    columns = shown((*QUALITY, *COSTS), found.arms)
    heads = ["Arm", "Seeds", *map(_heading, columns), "Verdict"]
    rows = [" & ".join(_latex(text) for text in row) + r" \\" for row in
            (heads, *(_cells(arm, columns, found) for arm in found.arms))]  # fmt: skip
    said = [arm.told for arm in found.arms if arm.told]
    notes = [f"% {_flat(text)}" for text in (f"{found.title}, {found.part} part", *said, found.rule)]
    return "\n".join(
        [*notes, r"\begin{tabular}{l" + "r" * (len(columns) + 1) + "l}", r"\toprule", rows[0], r"\midrule", *rows[1:],
         r"\bottomrule", r"\end{tabular}", ""]
    )  # fmt: skip


def _row(arm: Arm, found: Comparison) -> dict[str, str | float | int | None]:
    gain, gap = arm.gain, arm.gap
    row: dict[str, str | float | int | None] = {
        "arm": _word(arm.name), "role": arm.role, "title": _word(arm.title), "note": _word(arm.note),
        "control": _word(arm.control or ""), "part": found.part, "seeds": _seeds(arm, found),
    }  # fmt: skip
    for name, mean in (("top1", arm.top1), ("macro_f1", arm.macro_f1), ("nll", arm.nll), ("ece", arm.ece)):
        row |= _mean(name, mean)
    row |= {
        "gain_points": gain.mean if gain else None, "gain_low": gain.low if gain else None,
        "gain_high": gain.high if gain else None, "gain_t_low": gain.t_low if gain else None,
        "gain_t_high": gain.t_high if gain else None,
        "gain_samples_low": gain.samples[0] if gain and gain.samples else None,
        "gain_samples_high": gain.samples[1] if gain and gain.samples else None,
        "gain_p": gain.p if gain else None, "gain_seeds": gain.n if gain else None,
        "gap_recovered": gap.share if gap else None, "gap_low": gap.low if gap else None,
        "gap_high": gap.high if gap else None,
        "judgement": arm.judgement if arm.told else "", "sentence": _word(arm.told),
        "parameters": arm.parameters, "flops": arm.flops, "bytes": arm.bytes, "latency_ms": arm.latency,
        "steps": arm.steps, "seconds": arm.spent.seconds, "cpu_seconds": arm.spent.cpu_seconds,
        "gpu_seconds": arm.spent.gpu_seconds, "joules": arm.spent.joules,
    }  # fmt: skip
    return row


def _mean(name: str, found: Mean | None) -> dict[str, str | float | int | None]:
    return {
        name: found.mean if found else None, f"{name}_low": found.low if found else None,
        f"{name}_high": found.high if found else None,
    }  # fmt: skip


def _cells(arm: Arm, columns: list[Column], found: Comparison) -> list[str]:
    figures = [column.cell(arm) for column in columns]
    words = [f"{one.text} ({one.second})" if one.second else one.text for one in figures]
    return [arm.name, str(_seeds(arm, found)), *words, verdict(arm)]


def _seeds(arm: Arm, found: Comparison) -> int:
    return sum(cell.arm == arm.name and cell.state == "done" for cell in found.cells)


def _heading(column: Column) -> str:
    return f"{column.heading}, {column.unit}" if column.unit else column.heading


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\u00a0", " ")).strip()


def _word(text: str) -> str:
    text = "".join(letter for letter in text if letter >= " " or letter in "\t\r\n")
    return f"'{text}" if re.match(r"[=+\-@\t\r\n＝＋－＠]", text) else text


def _markdown(text: str) -> str:
    text = _flat(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in _flat(text))
