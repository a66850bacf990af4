"""What a run found out, for people: one page that opens from disk, a table for the terminal, and the verdict."""

from limbeck.report.candidates import candidates_table
from limbeck.report.card import write_card
from limbeck.report.check import changed, check_record
from limbeck.report.choice import write_candidates
from limbeck.report.evaluation import evaluation_table
from limbeck.report.judged import RULE_OVER_SEEDS, judge_over_seeds, verdict_over_seeds
from limbeck.report.page import report_page, write_report
from limbeck.report.repeated import rerun_table
from limbeck.report.table import summary, summary_table
from limbeck.report.verdict import RULE, over_direct, verdict
from limbeck.report.write import schema_text, write_record

__all__ = [
    "RULE", "RULE_OVER_SEEDS", "candidates_table", "changed", "check_record", "evaluation_table", "judge_over_seeds",
    "over_direct", "report_page", "rerun_table", "schema_text", "summary", "summary_table", "verdict",
    "verdict_over_seeds", "write_candidates", "write_card", "write_record", "write_report",
]  # fmt: skip
