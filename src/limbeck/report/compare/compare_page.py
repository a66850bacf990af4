"""The comparison as one page that opens from disk and makes no network request.

One inline script sorts the tables; the page's Content-Security-Policy names it by its hash and allows no other.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.roles import Role
from limbeck.report.compare.columns import COST_COLUMNS, METRIC_COLUMNS, non_empty_columns, verdict_label
from limbeck.report.compare.comparison import Comparison, TrialStatus, VariantResult
from limbeck.report.compare.forest import forest_rows
from limbeck.report.compare.per_class import class_difference_rows
from limbeck.report.compare.plots import plot_learning_curves, plot_variant_latencies
from limbeck.report.compare.styles import assign_styles
from limbeck.report.formatting import format_percent, join_number_and_unit
from limbeck.report.html.page import format_date

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["content_security_policy", "load_template", "render_compare_page"]

_TEMPLATE_DIR = Path(__file__).parent


def render_compare_page(comparison: Comparison, *, home_url: str = "") -> str:
    """The page as HTML; the same comparison gives the same bytes. ``home_url`` is the address of a way back, if any."""
    return load_template("compare.html.j2").render(
        comparison=comparison, home_url=home_url, **_template_context(comparison)
    )


def content_security_policy() -> str:
    """The Content-Security-Policy of the page: no connection, our own style, and the one script, by its hash."""
    digest = base64.b64encode(hashlib.sha256(_load_script().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def load_template(name: str, *, folder: Path = _TEMPLATE_DIR) -> Template:
    """A template that escapes all text, with the style sheets, the script and the policy at hand."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, _TEMPLATE_DIR]), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "format_percent": format_percent, "join_number_and_unit": join_number_and_unit, "verdict_label": verdict_label,
    }  # fmt: skip
    environment.globals |= {"style": _load_stylesheet(), "script": _load_script(), "policy": content_security_policy()}
    return environment.get_template(name)


def _template_context(comparison: Comparison) -> dict[str, Any]:
    variants = comparison.variants
    styles = assign_styles(variants)
    names, rows, num_classes = class_difference_rows(variants)
    return {
        "styles": styles, "created": format_date(comparison.created), "verdicts": _variants_with_verdict(comparison),
        "metric_columns": non_empty_columns(METRIC_COLUMNS, variants),
        "cost_columns": non_empty_columns(COST_COLUMNS, variants), "forest": forest_rows(variants),
        "curve_plot": plot_learning_curves(variants, styles), "latency_plot": plot_variant_latencies(variants, styles),
        "class_variants": names, "class_rows": rows, "num_classes": num_classes,
        "states": _count_states(comparison.trials), "seed_counts": _format_seed_counts(comparison),
        "has_means": any(variant.accuracy and variant.accuracy.num_seeds > 1 for variant in variants),
        "num_runs": len({trial.folder for trial in comparison.trials if trial.state == "done"}),
        "titled_variants": [variant for variant in variants if variant.title or variant.note],
        "min_agreement": _min_agreement(comparison),
        "has_single_seed": any(variant.gain and variant.gain.resampled_unit == "samples" for variant in variants),
    }  # fmt: skip


def _variants_with_verdict(comparison: Comparison) -> list[VariantResult]:
    """The variants that have a verdict: students that are not themselves a baseline of others."""
    students = [
        variant for variant in comparison.variants if variant.is_student and variant.name not in comparison.baselines
    ]
    return [variant for variant in students if variant.baseline or variant.role != Role.BASELINE]


def _count_states(trials: tuple[TrialStatus, ...]) -> dict[str, int]:
    return {
        state: n
        for state in ("done", "running", "waiting", "failed")
        if (n := sum(trial.state == state for trial in trials))
    }


def _format_seed_counts(comparison: Comparison) -> dict[str, str]:
    """How many seeds of each variant are done, of how many."""
    counts = {}
    for variant in comparison.variants:
        variant_trials = [trial for trial in comparison.trials if trial.variant == variant.name]
        done = sum(trial.state == "done" for trial in variant_trials)
        counts[variant.name] = str(done) if done == len(variant_trials) else f"{done} of {len(variant_trials)}"
    return counts


def _min_agreement(comparison: Comparison) -> float:
    """The smallest agreement of two variants, at which the shading begins."""
    matrix = comparison.agreement.matrix if comparison.agreement else ()
    return min((agreement for row in matrix for agreement in row if agreement is not None), default=0.0) - 0.02


@cache
def _load_stylesheet() -> str:
    return "".join(
        path.read_text(encoding="utf-8")
        for path in (_TEMPLATE_DIR.parent / "html" / "report.css", _TEMPLATE_DIR / "compare.css")
    )


@cache
def _load_script() -> str:
    return (_TEMPLATE_DIR / "sort.js").read_text(encoding="utf-8")
