"""The one sentence that says whether distillation improves accuracy, by a rule fixed before the metrics are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from limbeck.core.roles import Role
from limbeck.report.formatting import format_percent, format_points

__all__ = ["RULE", "Outcome", "classify_interval", "format_verdict", "format_vs_no_assistants"]

RULE = (
    "Rule: distillation improves accuracy if the whole 95 % interval of the gain over the baseline lies above zero, "
    "it degrades accuracy if the whole interval lies below, and otherwise there is no significant difference."
)
Outcome = Literal["improves", "degrades", "inconclusive", "unknown"]
"""Of a run, of a study and of a comparison alike."""


def classify_interval(interval: Sequence[float | None] | None) -> Outcome:
    """What the rule says of an interval in points; an end that lies on zero counts as zero included.

    >>> tuple(map(classify_interval, ((0.4, 5.8), (-1.0, 2.0), (-3.0, -0.2), None)))
    ('improves', 'inconclusive', 'degrades', 'unknown')
    """
    bounds = [bound for bound in interval or () if bound is not None and math.isfinite(bound)]
    if len(bounds) != 2:
        return "unknown"
    low, high = bounds
    return "improves" if low > 0 else "degrades" if high < 0 else "inconclusive"


def format_verdict(
    models: Mapping[str, Any],
    gain_points: float | None,
    interval: Sequence[float | None] | None,
    gap_recovered: float | None,
) -> str:
    """Whether distillation improves accuracy, in one sentence (see :data:`RULE`).

    Arguments:
        models: ``models`` of the record: by name, each with ``role`` and ``test`` (or null).
        gain_points: distilled minus baseline on the test set, in percentage points.
        interval: its 95 % interval in points, low and high.
        gap_recovered: (distilled - baseline) / (teacher - baseline); ``None`` where there is no gap.

    >>> models = {"baseline": {"role": "baseline", "test": {"metrics": {"accuracy": 0.932}, "num_samples": 360}},
    ...           "distilled": {"role": "distilled", "test": {"metrics": {"accuracy": 0.929}, "num_samples": 360}}}
    >>> for clause in format_verdict(models, -0.3, (-2.2, 1.7), None).replace(": ", ", ").split(", "):
    ...     print(clause)
    No significant difference between distilled and baseline (n = 360)
    the difference is −0.3 points (92.9 % against 93.2 %)
    and its 95 % interval
    −2.2 to +1.7
    includes zero.
    """
    baseline, distilled = _test_metrics(models, Role.BASELINE), _test_metrics(models, Role.DISTILLED)
    outcome = classify_interval(interval)
    if outcome == "unknown" or interval is None or gain_points is None or not math.isfinite(gain_points):
        return _explain_unknown(models, baseline, distilled)
    accuracy_note = ""
    if baseline and distilled:
        accuracies = (format_percent(split["metrics"]["accuracy"]) for split in (distilled, baseline))
        accuracy_note = f" ({' against '.join(accuracies)})"
    num_samples_note = f"n = {distilled['num_samples']}" if distilled else "n not recorded"
    interval_text = f"{format_points(interval[0])} to {format_points(interval[1])}"
    if outcome == "inconclusive":
        return (
            f"No significant difference between distilled and baseline ({num_samples_note}): the difference is "
            f"{format_points(gain_points)} points{accuracy_note}, "
            f"and its 95 % interval, {interval_text}, includes zero."
        )
    if outcome == "degrades":
        return (
            f"Distillation degrades accuracy: the student loses {abs(gain_points):.1f} points against the "
            f"baseline{accuracy_note}, 95 % interval {interval_text}, {num_samples_note}."
        )
    return (
        f"Distillation improves accuracy: the student gains {gain_points:.1f} points over the baseline{accuracy_note}, "
        f"95 % interval {interval_text}, {num_samples_note}{_format_gap_recovered(gap_recovered)}."
    )


def format_vs_no_assistants(gain_points: float, interval: Sequence[float]) -> str:
    """Whether assistants between teacher and student improve accuracy, in one sentence, by the same rule.

    Arguments:
        gain_points: distilled minus the student that learned from the teachers without assistants, in points.
        interval: its 95 % interval in points, low and high.

    >>> format_vs_no_assistants(1.25, (0.5, 2.0))
    'The assistants improve accuracy: +1.2 points against the same student without them, 95 % interval +0.5 to +2.0.'
    """
    outcome, interval_text = (
        classify_interval(interval),
        f"{format_points(interval[0])} to {format_points(interval[1])}",
    )
    if outcome == "inconclusive":
        return (
            "The assistants make no significant difference: the difference to the same student without them is "
            f"{format_points(gain_points)} points, and its 95 % interval, {interval_text}, includes zero."
        )
    return (
        f"The assistants {outcome.removesuffix('s')} accuracy: {format_points(gain_points)} points against the same "
        f"student without them, 95 % interval {interval_text}."
    )


def _explain_unknown(models: Mapping[str, Any], baseline: Any, distilled: Any) -> str:
    """Why nothing can be said."""
    if not any(model.get("role") == Role.BASELINE for model in models.values()):
        reason = "the student was not trained without a teacher, so there is no baseline"
    elif not baseline or not distilled:
        reason = "the test set was not opened for both, so there is no accuracy to compare"
    else:
        reason = "the record holds no gain with its interval"
    return f"Whether distillation improves accuracy is unknown: {reason}."


def _format_gap_recovered(gap_recovered: float | None) -> str:
    if gap_recovered is None or not math.isfinite(gap_recovered):
        return ""
    if gap_recovered > 1:
        return f", and exceeds its teacher ({gap_recovered:.0%} of the gap)".replace("%", " %")
    return f", and recovers {format_percent(gap_recovered, digits=0)} of the gap to its teacher"


def _test_metrics(models: Mapping[str, Any], role: Role) -> Any:
    """The test split of the model with this role, where it has an accuracy."""
    for model in models.values():
        split = model.get("test") if model.get("role") == role else None
        if split and split["metrics"].get("accuracy") is not None:
            return split
    return None
