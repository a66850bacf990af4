"""What a run found out, for people: one page that opens from disk, a table for the terminal, and the verdict."""

from limbeck.report.candidates import candidates_table
from limbeck.report.choice import write_candidates
from limbeck.report.evaluation import evaluation_table
from limbeck.report.page import write_report
from limbeck.report.table import summary, summary_table
from limbeck.report.verdict import RULE, over_direct, verdict

__all__ = [
    "RULE", "candidates_table", "evaluation_table", "over_direct", "summary", "summary_table", "verdict",
    "write_candidates", "write_report",
]  # fmt: skip
