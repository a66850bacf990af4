"""Results of a run: the record, the verdict, the report page, terminal tables and the model card."""

from limbeck.report.html.page import render_report, write_report
from limbeck.report.model_card import write_model_card
from limbeck.report.plots.teacher_selection import write_selection_plot
from limbeck.report.record_io import check_record, integrity_warning, read_record, render_json_schema, write_record

__all__ = [
    "check_record", "integrity_warning", "read_record", "render_json_schema", "render_report", "write_model_card",
    "write_record", "write_report", "write_selection_plot",
]  # fmt: skip
