"""The results of a run for people: a page that opens from disk, a table for the terminal, and the verdict."""

from limbeck.report.candidates_table import render_candidates_table
from limbeck.report.evaluation_table import render_evaluation_table
from limbeck.report.html.page import render_report, write_report
from limbeck.report.model_card import write_model_card
from limbeck.report.plots.teacher_selection import write_selection_plot
from limbeck.report.reproduce_table import render_reproduce_table
from limbeck.report.study_verdict import RULE_OVER_SEEDS, classify_gain_over_seeds, format_verdict_over_seeds
from limbeck.report.terminal_table import build_summary_table, render_summary_table
from limbeck.report.verdict import RULE, classify_interval, format_verdict, format_vs_no_assistants
from limbeck.report.verify import check_record, integrity_warning
from limbeck.report.write import render_json_schema, write_record

__all__ = [
    "RULE",
    "RULE_OVER_SEEDS",
    "build_summary_table",
    "check_record",
    "classify_gain_over_seeds",
    "classify_interval",
    "format_verdict",
    "format_verdict_over_seeds",
    "format_vs_no_assistants",
    "integrity_warning",
    "render_candidates_table",
    "render_evaluation_table",
    "render_json_schema",
    "render_report",
    "render_reproduce_table",
    "render_summary_table",
    "write_model_card",
    "write_record",
    "write_report",
    "write_selection_plot",
]  # fmt: skip
