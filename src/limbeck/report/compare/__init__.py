"""Several arms beside each other, as one page, as a table for a paper, and as one for the terminal."""

from limbeck.report.compare.compare_page import compare_page, policy, template
from limbeck.report.compare.comparison import (
    Agreement,
    Arm,
    Cell,
    ClassChange,
    Comparison,
    Gain,
    Mean,
    Share,
    Spent,
)  # fmt: skip
from limbeck.report.compare.print_table import compare_table
from limbeck.report.compare.sentences import RULE, judged, sentence
from limbeck.report.compare.tables import csv_text, latex_text, markdown_text

__all__ = [
    "RULE", "Agreement", "Arm", "Cell", "ClassChange", "Comparison", "Gain", "Mean", "Share", "Spent", "compare_page",
    "compare_table", "csv_text", "judged", "latex_text", "markdown_text", "policy", "sentence", "template",
]  # fmt: skip
