"""The one sentence that says whether distillation helped, by a rule fixed before anybody looks at the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from limbeck.report.formatting import format_percent, format_points

__all__ = ["RULE", "Outcome", "classify_interval", "format_vs_no_assistants", "format_verdict"]

RULE = (
    "Rule: distillation helped if the whole 95 % interval of the gain over the same student alone lies above zero, "
    "it hurt if the whole interval lies below, and otherwise the two cannot be told apart."
)
Outcome = Literal["helped", "hurt", "open", "unknown"]


def classify_interval(interval: Sequence[float | None] | None) -> Outcome:
    """What the rule says of an interval in points; an end that lies on zero counts as zero included.

    >>> classify_interval((0.4, 5.8)), classify_interval((-1.0, 2.0)), classify_interval((-3.0, -0.2)), classify_interval(None)
    ('helped', 'open', 'hurt', 'unknown')
    """
    bounds = [bound for bound in interval or () if bound is not None and math.isfinite(bound)]
    if len(bounds) != 2:
        return "unknown"
    low, high = bounds
    return "helped" if low > 0 else "hurt" if high < 0 else "open"


def format_verdict(
    models: Mapping[str, Any],
    gain_points: float | None,
    interval: Sequence[float | None] | None,
    gap_recovered: float | None,
) -> str:
    """Whether distillation helped, in one sentence (see :data:`RULE`).

    Arguments:
        record_models: ``models`` of the record: by name, each with ``role`` and ``test`` (or null).
        gain_points: distilled minus alone on the test part, in percentage points.
        interval: its 95 % interval in points, low and high.
        gap_recovered: (distilled - alone) / (teacher - alone); ``None`` where there is no gap.

    >>> models = {"alone": {"role": "alone", "test": {"top1": 0.932, "examples": 360}},
    ...           "distilled": {"role": "distilled", "test": {"top1": 0.929, "examples": 360}}}
    >>> for part in format_verdict(models, -0.3, (-2.2, 1.7), None).split(", "):
    ...     print(part)
    Distilled and alone cannot be told apart at n = 360: the difference is −0.3 points (92.9 % against 93.2 %)
    and its 95 % interval
    −2.2 to +1.7
    includes zero.
    """
    baseline, distilled = _test_metrics(models, "alone"), _test_metrics(models, "distilled")
    outcome = classify_interval(interval)
    if outcome == "unknown" or interval is None or gain_points is None or not math.isfinite(gain_points):
        return _explain_unknown(models, baseline, distilled)
    accuracy_note = (
        f" ({format_percent(distilled['top1'])} against {format_percent(baseline['top1'])})"
        if baseline and distilled
        else ""
    )
    num_samples_note = f"n = {distilled['examples']}" if distilled else "n not recorded"
    interval_text = f"{format_points(interval[0])} to {format_points(interval[1])}"
    if outcome == "open":
        return (
            f"Distilled and alone cannot be told apart at {num_samples_note}: the difference is {format_points(gain_points)} points{accuracy_note}, "
            f"and its 95 % interval, {interval_text}, includes zero."
        )
    if outcome == "hurt":
        return (
            f"Distillation hurt: the student lost {abs(gain_points):.1f} points against the same student "
            f"alone{accuracy_note}, 95 % interval {interval_text}, {num_samples_note}."
        )
    return (
        f"Distillation helped: the student gained {gain_points:.1f} points over the same student alone{accuracy_note}, "
        f"95 % interval {interval_text}, {num_samples_note}{_format_gap_recovered(gap_recovered)}."
    )


def format_vs_no_assistants(gain_points: float, interval: Sequence[float]) -> str:
    """Whether assistants between teacher and student helped, in one sentence, by the same rule.

    Arguments:
        gain_points: distilled minus the student that learned from the teachers without assistants, in points.
        interval: its 95 % interval in points, low and high.

    >>> format_vs_no_assistants(1.25, (0.5, 2.0))
    'The assistants helped: +1.2 points against the same student without them, 95 % interval +0.5 to +2.0.'
    """
    outcome, interval_text = (
        classify_interval(interval),
        f"{format_points(interval[0])} to {format_points(interval[1])}",
    )
    if outcome == "open":
        return (
            "Whether the assistants helped cannot be told: the difference to the same student without them is "
            f"{format_points(gain_points)} points, and its 95 % interval, {interval_text}, includes zero."
        )
    return (
        f"The assistants {outcome}: {format_points(gain_points)} points against the same student without them, 95 % "
        f"interval {interval_text}."
    )


def _explain_unknown(models: Mapping[str, Any], baseline: Any, distilled: Any) -> str:
    """Why nothing can be said."""
    if not any(model.get("role") == "alone" for model in models.values()):
        reason = "the same student was not trained alone, so there is nothing to compare with"
    elif not baseline or not distilled:
        reason = "the sealed test part was not opened for both, so there is no figure to judge by"
    else:
        reason = "the record holds no gain with its interval"
    return f"Whether distillation helped is not known: {reason}."


def _format_gap_recovered(gap_recovered: float | None) -> str:
    if gap_recovered is None or not math.isfinite(gap_recovered):
        return ""
    if gap_recovered > 1:
        return f", and stands above its teacher ({gap_recovered:.0%} of the gap)".replace("%", " %")
    return f", and recovered {format_percent(gap_recovered, digits=0)} of the gap to its teacher"


def _test_metrics(models: Mapping[str, Any], role: str) -> Any:
    """The test figures of the model with this role, where it has an accuracy."""
    for model in models.values():
        metrics = model.get("test") if model.get("role") == role else None
        if metrics and metrics.get("top1") is not None:
            return metrics
    return None
