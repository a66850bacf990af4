"""The comparison of several variants as a page, as a table for a paper, and as one for the terminal."""

from limbeck.report.compare.compare_page import content_security_policy, load_template, render_compare_page
from limbeck.report.compare.comparison import (
    AgreementMatrix,
    ClassChange,
    Comparison,
    GapRecovered,
    PairedGain,
    SeedMean,
    TrainingCost,
    TrialStatus,
    VariantResult,
)  # fmt: skip
from limbeck.report.compare.print_table import render_compare_table
from limbeck.report.compare.sentences import VARIANT_RULE, classify_gain, format_gain_verdict
from limbeck.report.compare.tables import to_csv, to_latex, to_markdown

__all__ = [
    "VARIANT_RULE",
    "AgreementMatrix",
    "ClassChange",
    "Comparison",
    "GapRecovered",
    "PairedGain",
    "SeedMean",
    "TrainingCost",
    "TrialStatus",
    "VariantResult",
    "classify_gain",
    "content_security_policy",
    "format_gain_verdict",
    "load_template",
    "render_compare_page",
    "render_compare_table",
    "to_csv",
    "to_latex",
    "to_markdown",
]  # fmt: skip
