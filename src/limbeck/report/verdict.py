"""The one sentence that says whether distillation helped, by a rule fixed before anybody looks at the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from limbeck.report.formatting import percent, points

__all__ = ["RULE", "Judgement", "judge", "over_direct", "verdict"]

RULE = (
    "Rule: distillation helped if the whole 95 % interval of the gain over the same student alone lies above zero, "
    "it hurt if the whole interval lies below, and otherwise the two cannot be told apart."
)
Judgement = Literal["helped", "hurt", "open", "unknown"]


def judge(interval: Sequence[float | None] | None) -> Judgement:
    """What the rule says of an interval in points; an end that lies on zero counts as zero included.

    >>> judge((0.4, 5.8)), judge((-1.0, 2.0)), judge((-3.0, -0.2)), judge(None)
    ('helped', 'open', 'hurt', 'unknown')
    """
    ends = [end for end in interval or () if end is not None and math.isfinite(end)]
    if len(ends) != 2:
        return "unknown"
    low, high = ends
    return "helped" if low > 0 else "hurt" if high < 0 else "open"


def verdict(
    record_models: Mapping[str, Any],
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
    >>> for part in verdict(models, -0.3, (-2.2, 1.7), None).split(", "):
    ...     print(part)
    Distilled and alone cannot be told apart at n = 360: the difference is −0.3 points (92.9 % against 93.2 %)
    and its 95 % interval
    −2.2 to +1.7
    includes zero.
    """
    alone, distilled = _tested(record_models, "alone"), _tested(record_models, "distilled")
    judgement = judge(interval)
    if judgement == "unknown" or interval is None or gain_points is None or not math.isfinite(gain_points):
        return _unknown(record_models, alone, distilled)
    shares = f" ({percent(distilled['top1'])} against {percent(alone['top1'])})" if alone and distilled else ""
    n = f"n = {distilled['examples']}" if distilled else "n not recorded"
    ends = f"{points(interval[0])} to {points(interval[1])}"
    if judgement == "open":
        return (
            f"Distilled and alone cannot be told apart at {n}: the difference is {points(gain_points)} points{shares}, "
            f"and its 95 % interval, {ends}, includes zero."
        )
    if judgement == "hurt":
        return (
            f"Distillation hurt: the student lost {abs(gain_points):.1f} points against the same student "
            f"alone{shares}, 95 % interval {ends}, {n}."
        )
    return (
        f"Distillation helped: the student gained {gain_points:.1f} points over the same student alone{shares}, "
        f"95 % interval {ends}, {n}{_share(gap_recovered)}."
    )


def over_direct(gain_points: float, interval: Sequence[float]) -> str:
    """Whether assistants between teacher and student helped, in one sentence, by the same rule.

    Arguments:
        gain_points: distilled minus the student that learned from the teachers without assistants, in points.
        interval: its 95 % interval in points, low and high.

    >>> over_direct(1.25, (0.5, 2.0))
    'The assistants helped: +1.2 points against the same student without them, 95 % interval +0.5 to +2.0.'
    """
    judgement, ends = judge(interval), f"{points(interval[0])} to {points(interval[1])}"
    if judgement == "open":
        return (
            "Whether the assistants helped cannot be told: the difference to the same student without them is "
            f"{points(gain_points)} points, and its 95 % interval, {ends}, includes zero."
        )
    return (
        f"The assistants {judgement}: {points(gain_points)} points against the same student without them, 95 % "
        f"interval {ends}."
    )


def _unknown(models: Mapping[str, Any], alone: Any, distilled: Any) -> str:
    """Why nothing can be said."""
    if not any(model.get("role") == "alone" for model in models.values()):
        why = "the same student was not trained alone, so there is nothing to compare with"
    elif not alone or not distilled:
        why = "the sealed test part was not opened for both, so there is no figure to judge by"
    else:
        why = "the record holds no gain with its interval"
    return f"Whether distillation helped is not known: {why}."


def _share(gap_recovered: float | None) -> str:
    if gap_recovered is None or not math.isfinite(gap_recovered):
        return ""
    if gap_recovered > 1:
        return f", and stands above its teacher ({gap_recovered:.0%} of the gap)".replace("%", " %")
    return f", and recovered {percent(gap_recovered, digits=0)} of the gap to its teacher"


def _tested(models: Mapping[str, Any], role: str) -> Any:
    """The test figures of the model with this role, where it has an accuracy."""
    for model in models.values():
        figures = model.get("test") if model.get("role") == role else None
        if figures and figures.get("top1") is not None:
            return figures
    return None
