"""Whether one variant of a study improves over another, by a rule over seeds fixed before the metrics are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report.formatting import format_percent, format_points
from limbeck.report.verdict import Outcome

__all__ = ["RULE_OVER_SEEDS", "classify_gain_over_seeds", "format_verdict_over_seeds"]

RULE_OVER_SEEDS = (
    "Rule: a variant improves if both 95 % intervals of its gain, paired by seed, lie above zero: the bootstrap's over "
    "seeds and Student's t; it degrades if both lie below, and otherwise there is no significant difference. One seed "
    "shows nothing, nor do seeds whose differences are all exactly alike, since then the spread between seeds is "
    "unknown."
)


def classify_gain_over_seeds(gain: Mapping[str, Any] | None) -> Outcome:
    """What the rule says of a gain over seeds; an end that lies on zero counts as zero included.

    Arguments:
        gain: as ``limbeck.evaluation.paired_mean_ci`` returns it, of which ``low``, ``high``, ``t_low``, ``t_high``,
            ``num_seeds`` and, where it is there, ``std`` are read. ``None``, or fewer than two seeds, is unknown.

    >>> ends = {"low": 1.0, "high": 3.0, "t_low": 0.2, "t_high": 3.8, "num_seeds": 5}
    >>> gains = (ends, {**ends, "t_low": -0.5}, {**ends, "num_seeds": 1})
    >>> tuple(map(classify_gain_over_seeds, gains))
    ('improves', 'inconclusive', 'unknown')
    """
    if not gain or gain["num_seeds"] < 2:
        return "unknown"
    ends = [gain[key] for key in ("low", "t_low", "high", "t_high")]
    if not all(key is not None and math.isfinite(key) for key in ends):
        return "unknown"
    if _has_zero_spread(gain):
        return "inconclusive"
    return "improves" if min(ends) > 0 else "degrades" if max(ends) < 0 else "inconclusive"


def format_verdict_over_seeds(
    name: str,
    baseline: str,
    gain: Mapping[str, Any] | None,
    *,
    gap_recovered: Mapping[str, Any] | None = None,
    seeds_needed: int | None = None,
    accuracies: Sequence[float] | None = None,
) -> str:
    """Whether the variant ``name`` improves over ``baseline``, in one sentence (see :data:`RULE_OVER_SEEDS`).

    Arguments:
        name: the variant.
        baseline: the variant it is compared with.
        gain: ``name`` minus ``baseline`` in percentage points, as ``limbeck.evaluation.paired_mean_ci`` returns it.
        gap_recovered: the fraction of the gap to the teacher, as ``limbeck.evaluation.gap_recovered_ci`` returns it.
        seeds_needed: as ``limbeck.evaluation.required_num_seeds`` returns it, stated where there is no significant
            difference; ``None`` says that no number up to 10,000 would show one.
        accuracies: the mean accuracies of ``name`` and of ``baseline``, as fractions.

    >>> gain = {"mean": 0.4, "std": 0.6, "low": -0.2, "high": 1.0, "t_low": -1.09, "t_high": 1.89, "num_seeds": 3}
    >>> text = format_verdict_over_seeds("dkd", "student_only", gain, seeds_needed=20, accuracies=(0.934, 0.93))
    >>> for clause in text.replace("; ", ", ").replace(": ", ", ").split(", "):
    ...     print(clause)
    no significant difference between dkd and student_only (n = 3 seeds)
    the difference is +0.40 points (93.4 % against 93.0 %)
    95 % interval −0.20 to +1.00 by bootstrap and −1.09 to +1.89 by Student's t
    about 20 seeds would show a difference of this size at this spread.
    """
    outcome = classify_gain_over_seeds(gain)
    if gain is None or outcome == "unknown":
        return _explain_unknown_over_seeds(name, baseline, gain)
    accuracy_note = f" ({format_percent(accuracies[0])} against {format_percent(accuracies[1])})" if accuracies else ""
    n = f"n = {gain['num_seeds']} seeds"
    if outcome == "inconclusive":
        return (
            f"no significant difference between {name} and {baseline} ({n}): the difference is "
            f"{_format_gain(gain['mean'])} points{accuracy_note}, {_format_intervals(gain)}; "
            f"{_format_seeds_needed(gain, seeds_needed)}."
        )
    gain_text = f"{_format_gain(gain['mean'])} points{accuracy_note}, {_format_intervals(gain)}, {n}"
    gap_text = _format_gap_with_interval(gap_recovered) if outcome == "improves" else ""
    return f"{name} {outcome} {'over' if outcome == 'improves' else 'against'} {baseline}: {gain_text}{gap_text}."


def _has_zero_spread(gain: Mapping[str, Any]) -> bool:
    """Accuracies are counts of samples: differences exactly alike are a tie of counts, as two seeds often have it."""
    return gain.get("std") == 0 or gain["t_low"] == gain["t_high"]


def _explain_unknown_over_seeds(name: str, baseline: str, gain: Mapping[str, Any] | None) -> str:
    """Why nothing can be said."""
    if not gain or not gain["num_seeds"]:
        reason = "no seed has metrics of both"
    elif gain["num_seeds"] == 1:
        reason = (
            f"one seed ({_format_gain(gain['mean'])} points) does not show what another would change; run at least two"
        )
    else:
        reason = "the study holds no gain with its intervals"
    return f"Whether {name} improves over {baseline} is unknown: {reason}."


def _format_seeds_needed(gain: Mapping[str, Any], seeds: int | None) -> str:
    """How many seeds would show a significant difference."""
    if _has_zero_spread(gain):
        seeds_note = f"all {gain['num_seeds']} seeds differ by exactly the same"
        return f"{seeds_note}, so the spread between seeds is unknown: run more"
    if seeds is None:
        return "no number of seeds up to 10,000 would show a difference of this size at this spread"
    # What was seen is a guess at the truth: where it says that these seeds should have told, a few more may.
    seed_count = f"about {seeds:,} seeds" if seeds > gain["num_seeds"] else f"more than {gain['num_seeds']} seeds"
    return f"{seed_count} would show a difference of this size at this spread"


def _format_intervals(gain: Mapping[str, Any]) -> str:
    return (
        f"95 % interval {_format_gain(gain['low'])} to {_format_gain(gain['high'])} by bootstrap and "
        f"{_format_gain(gain['t_low'])} to {_format_gain(gain['t_high'])} by Student's t"
    )


def _format_gap_with_interval(gap_recovered: Mapping[str, Any] | None) -> str:
    """How much of the gap to the teacher was recovered, with its interval where both ends are known."""
    fraction = gap_recovered["fraction"] if gap_recovered else None
    if gap_recovered is None or fraction is None or not math.isfinite(fraction):
        return ""
    low, high = gap_recovered.get("low"), gap_recovered.get("high")
    interval = (
        ""
        if low is None or high is None
        else f" (95 % interval {_format_whole_percent(low)} to {_format_whole_percent(high)})"
    )
    if fraction > 1:
        return f", and exceeds its teacher: {_format_whole_percent(fraction)} of the gap{interval}"
    return f", and recovers {_format_whole_percent(fraction)} of the gap to its teacher{interval}"


def _format_whole_percent(fraction: float) -> str:
    return format_percent(fraction, digits=0)


def _format_gain(value: float) -> str:
    return format_points(value, digits=2)
