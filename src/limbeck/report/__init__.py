"""Results of a run: the record, the verdict, the report page, terminal tables and the model card."""

from limbeck.report.html.page import render_report, write_report
from limbeck.report.model_card import write_model_card
from limbeck.report.plots.teacher_selection import write_selection_plot
from limbeck.report.record_io import check_record, integrity_warning, read_record, render_json_schema, write_record
from limbeck.report.terminal.candidates_table import render_candidates_table
from limbeck.report.terminal.compare_table import render_compare_table
from limbeck.report.terminal.evaluation_table import render_evaluation_table
from limbeck.report.terminal.reproduce_table import render_reproduce_table
from limbeck.report.terminal.summary_table import render_summary_table
from limbeck.report.verdict import (
    RULE,
    RULE_OVER_SEEDS,
    VARIANT_RULE,
    classify_gain,
    classify_gain_over_seeds,
    classify_interval,
    format_gain_verdict,
    format_verdict,
    format_verdict_over_seeds,
    format_vs_no_assistants,
)

__all__ = [
    "RULE",
    "RULE_OVER_SEEDS",
    "VARIANT_RULE",
    "check_record",
    "classify_gain",
    "classify_gain_over_seeds",
    "classify_interval",
    "format_gain_verdict",
    "format_verdict",
    "format_verdict_over_seeds",
    "format_vs_no_assistants",
    "integrity_warning",
    "read_record",
    "render_candidates_table",
    "render_compare_table",
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
