"""Whether one arm of a study helped over another, by a rule over seeds fixed before anybody looks at the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from limbeck.report.formatting import format_percent, format_points

__all__ = ["RULE_OVER_SEEDS", "Outcome", "classify_gain_over_seeds", "format_verdict_over_seeds"]

RULE_OVER_SEEDS = (
    "Rule: an arm helps if both 95 % intervals of its gain, paired by seed, lie above zero: the bootstrap's over seeds "
    "and Student's t; it hurts if both lie below, and otherwise the two cannot be told apart. One seed tells nothing, "
    "nor do seeds whose differences are all exactly alike, since then the spread between seeds is not known."
)
Outcome = Literal["helps", "hurts", "open", "unknown"]


def classify_gain_over_seeds(gain: Mapping[str, Any] | None) -> Outcome:
    """What the rule says of a gain over seeds; an end that lies on zero counts as zero included.

    Arguments:
        gain: as ``limbeck.evaluation.paired_over_seeds`` returns it, of which ``low``, ``high``, ``t_low``, ``t_high``,
            ``n`` and, where it is there, ``sd`` are read. ``None``, or fewer than two seeds, is unknown.

    >>> ends = {"low": 1.0, "high": 3.0, "t_low": 0.2, "t_high": 3.8, "n": 5}
    >>> classify_gain_over_seeds(ends), classify_gain_over_seeds({**ends, "t_low": -0.5}), classify_gain_over_seeds({**ends, "n": 1})
    ('helps', 'open', 'unknown')
    """
    if not gain or gain["n"] < 2:
        return "unknown"
    ends = [gain[key] for key in ("low", "t_low", "high", "t_high")]
    if not all(key is not None and math.isfinite(key) for key in ends):
        return "unknown"
    if _has_zero_spread(gain):
        return "open"
    return "helps" if min(ends) > 0 else "hurts" if max(ends) < 0 else "open"


def format_verdict_over_seeds(
    name: str,
    baseline: str,
    gain: Mapping[str, Any] | None,
    *,
    gap_recovered: Mapping[str, Any] | None = None,
    seeds_needed: int | None = None,
    accuracies: Sequence[float] | None = None,
) -> str:
    """Whether the arm ``name`` helps over ``against``, in one sentence (see :data:`RULE_OVER_SEEDS`).

    Arguments:
        name: the arm that is judged.
        against: the arm it is compared with.
        gain: ``name`` minus ``against`` in percentage points, as ``limbeck.evaluation.paired_over_seeds`` returns it.
        gap: the share of the gap to the teacher, as ``limbeck.evaluation.gap_recovered_over_seeds`` returns it.
        seeds_needed: as ``limbeck.evaluation.seeds_needed`` returns it, told where the two cannot be told apart;
            ``None`` says that no number up to 10,000 would tell.
        tops: the mean accuracies of ``name`` and of ``against``, as fractions.

    >>> gain = {"mean": 0.4, "sd": 0.6, "low": -0.2, "high": 1.0, "t_low": -1.09, "t_high": 1.89, "n": 3}
    >>> sentence = format_verdict_over_seeds("dkd", "alone", gain, seeds_needed=20, accuracies=(0.934, 0.93))
    >>> for part in sentence.replace("; ", ", ").split(", "):
    ...     print(part)
    dkd and alone cannot be told apart at n = 3 seeds: the difference is +0.40 points (93.4 % against 93.0 %)
    95 % interval −0.20 to +1.00 by bootstrap and −1.09 to +1.89 by Student's t
    about 20 seeds would tell a difference of this size at this spread.
    """
    outcome = classify_gain_over_seeds(gain)
    if gain is None or outcome == "unknown":
        return _explain_unknown_over_seeds(name, baseline, gain)
    accuracy_note = f" ({format_percent(accuracies[0])} against {format_percent(accuracies[1])})" if accuracies else ""
    n = f"n = {gain['n']} seeds"
    if outcome == "open":
        return (
            f"{name} and {baseline} cannot be told apart at {n}: the difference is {_format_gain(gain['mean'])} points"
            f"{accuracy_note}, {_format_intervals(gain)}; {_format_seeds_needed(gain, seeds_needed)}."
        )
    gain_text = f"{_format_gain(gain['mean'])} points{accuracy_note}, {_format_intervals(gain)}, {n}"
    return f"{name} {outcome} against {baseline}: {gain_text}{_format_gap_with_interval(gap_recovered) if outcome == 'helps' else ''}."


def _has_zero_spread(gain: Mapping[str, Any]) -> bool:
    """Accuracies are counts of samples: differences exactly alike are a tie of counts, as two seeds often have it."""
    return gain.get("sd") == 0 or gain["t_low"] == gain["t_high"]


def _explain_unknown_over_seeds(name: str, baseline: str, gain: Mapping[str, Any] | None) -> str:
    """Why nothing can be said."""
    if not gain or not gain["n"]:
        reason = "no seed has figures of both"
    elif gain["n"] == 1:
        reason = (
            f"one seed ({_format_gain(gain['mean'])} points) does not show what another would change; run at least two"
        )
    else:
        reason = "the study holds no gain with its intervals"
    return f"Whether {name} helps against {baseline} is not known: {reason}."


def _format_seeds_needed(gain: Mapping[str, Any], seeds: int | None) -> str:
    """How many seeds would tell the two apart."""
    if _has_zero_spread(gain):
        return f"all {gain['n']} seeds differ by exactly the same, so the spread between seeds is not known: run more"
    if seeds is None:
        return "no number of seeds up to 10,000 would tell a difference of this size at this spread"
    # What was seen is a guess at the truth: where it says that these seeds should have told, a few more may.
    seed_count = f"about {seeds:,} seeds" if seeds > gain["n"] else f"more than {gain['n']} seeds"
    return f"{seed_count} would tell a difference of this size at this spread"


def _format_intervals(gain: Mapping[str, Any]) -> str:
    return (
        f"95 % interval {_format_gain(gain['low'])} to {_format_gain(gain['high'])} by bootstrap and "
        f"{_format_gain(gain['t_low'])} to {_format_gain(gain['t_high'])} by Student's t"
    )


def _format_gap_with_interval(gap_recovered: Mapping[str, Any] | None) -> str:
    """How much of the gap to the teacher was recovered, with its interval where both ends are known."""
    fraction = gap_recovered["share"] if gap_recovered else None
    if gap_recovered is None or fraction is None or not math.isfinite(fraction):
        return ""
    low, high = gap_recovered.get("low"), gap_recovered.get("high")
    interval = (
        ""
        if low is None or high is None
        else f" (95 % interval {_format_whole_percent(low)} to {_format_whole_percent(high)})"
    )
    if fraction > 1:
        return f", and stands above its teacher: {_format_whole_percent(fraction)} of the gap{interval}"
    return f", and recovers {_format_whole_percent(fraction)} of the gap to its teacher{interval}"


def _format_whole_percent(fraction: float) -> str:
    return format_percent(fraction, digits=0)


def _format_gain(value: float) -> str:
    return format_points(value, digits=2)
