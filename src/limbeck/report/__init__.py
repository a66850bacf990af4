"""What a run found out, for people: one page that opens from disk, a table for the terminal, and the verdict."""

from limbeck.report.candidates_table import candidates_table
from limbeck.report.evaluation_table import evaluation_table
from limbeck.report.html.page import report_page, write_report
from limbeck.report.model_card import write_card
from limbeck.report.plots.teacher_selection import write_candidates
from limbeck.report.reproduce_table import rerun_table
from limbeck.report.study_verdict import RULE_OVER_SEEDS, judge_over_seeds, verdict_over_seeds
from limbeck.report.terminal_table import summary, summary_table
from limbeck.report.verdict import RULE, over_direct, verdict
from limbeck.report.verify import changed, check_record
from limbeck.report.write import schema_text, write_record

__all__ = [
    "RULE", "RULE_OVER_SEEDS", "candidates_table", "changed", "check_record", "evaluation_table", "judge_over_seeds",
    "over_direct", "report_page", "rerun_table", "schema_text", "summary", "summary_table", "verdict",
    "verdict_over_seeds", "write_candidates", "write_card", "write_record", "write_report",
]  # fmt: skip
