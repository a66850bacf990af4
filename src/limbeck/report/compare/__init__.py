"""The comparison of several variants: results, page, and tables."""

from limbeck.report.compare.compare_page import render_compare_page
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
from limbeck.report.compare.tables import to_csv, to_latex, to_markdown

__all__ = [
    "AgreementMatrix",
    "ClassChange",
    "Comparison",
    "GapRecovered",
    "PairedGain",
    "SeedMean",
    "TrainingCost",
    "TrialStatus",
    "VariantResult",
    "render_compare_page",
    "to_csv",
    "to_latex",
    "to_markdown",
]  # fmt: skip
