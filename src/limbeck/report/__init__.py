"""What a run found out, for people: one page that opens from disk, a table for the terminal, and the verdict."""

from limbeck.report.candidates import candidates_table
from limbeck.report.choice import write_candidates
from limbeck.report.evaluation import evaluation_table
from limbeck.report.judged import RULE_OVER_SEEDS, judge_over_seeds, verdict_over_seeds
from limbeck.report.page import report_page, write_report
from limbeck.report.table import summary, summary_table
from limbeck.report.verdict import RULE, over_direct, verdict

__all__ = [
    "RULE", "RULE_OVER_SEEDS", "candidates_table", "evaluation_table", "judge_over_seeds", "over_direct", "report_page",
    "summary", "summary_table", "verdict", "verdict_over_seeds", "write_candidates", "write_report",
]  # fmt: skip
