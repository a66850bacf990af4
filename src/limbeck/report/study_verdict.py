"""Whether one arm of a study helped over another, by a rule over seeds fixed before anybody looks at the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from limbeck.report.formatting import percent, points

__all__ = ["RULE_OVER_SEEDS", "JudgementOverSeeds", "judge_over_seeds", "verdict_over_seeds"]

RULE_OVER_SEEDS = (
    "Rule: an arm helps if both 95 % intervals of its gain, paired by seed, lie above zero: the bootstrap's over seeds "
    "and Student's t; it hurts if both lie below, and otherwise the two cannot be told apart. One seed tells nothing, "
    "nor do seeds whose differences are all exactly alike, since then the spread between seeds is not known."
)
JudgementOverSeeds = Literal["helps", "hurts", "open", "unknown"]


def judge_over_seeds(gain: Mapping[str, Any] | None) -> JudgementOverSeeds:
    """What the rule says of a gain over seeds; an end that lies on zero counts as zero included.

    Arguments:
        gain: as ``limbeck.evaluation.paired_over_seeds`` returns it, of which ``low``, ``high``, ``t_low``, ``t_high``,
            ``n`` and, where it is there, ``sd`` are read. ``None``, or fewer than two seeds, is unknown.

    >>> ends = {"low": 1.0, "high": 3.0, "t_low": 0.2, "t_high": 3.8, "n": 5}
    >>> judge_over_seeds(ends), judge_over_seeds({**ends, "t_low": -0.5}), judge_over_seeds({**ends, "n": 1})
    ('helps', 'open', 'unknown')
    """
    if not gain or gain["n"] < 2:
        return "unknown"
    ends = [gain[end] for end in ("low", "t_low", "high", "t_high")]
    if not all(end is not None and math.isfinite(end) for end in ends):
        return "unknown"
    if _without_spread(gain):
        return "open"
    return "helps" if min(ends) > 0 else "hurts" if max(ends) < 0 else "open"


def verdict_over_seeds(
    name: str,
    against: str,
    gain: Mapping[str, Any] | None,
    *,
    gap: Mapping[str, Any] | None = None,
    seeds_needed: int | None = None,
    tops: Sequence[float] | None = None,
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
    >>> sentence = verdict_over_seeds("dkd", "alone", gain, seeds_needed=20, tops=(0.934, 0.93))
    >>> for part in sentence.replace("; ", ", ").split(", "):
    ...     print(part)
    dkd and alone cannot be told apart at n = 3 seeds: the difference is +0.40 points (93.4 % against 93.0 %)
    95 % interval −0.20 to +1.00 by bootstrap and −1.09 to +1.89 by Student's t
    about 20 seeds would tell a difference of this size at this spread.
    """
    judgement = judge_over_seeds(gain)
    if gain is None or judgement == "unknown":
        return _unknown(name, against, gain)
    shares = f" ({percent(tops[0])} against {percent(tops[1])})" if tops else ""
    n = f"n = {gain['n']} seeds"
    if judgement == "open":
        return (
            f"{name} and {against} cannot be told apart at {n}: the difference is {_points(gain['mean'])} points"
            f"{shares}, {_intervals(gain)}; {_what_would_tell(gain, seeds_needed)}."
        )
    gained = f"{_points(gain['mean'])} points{shares}, {_intervals(gain)}, {n}"
    return f"{name} {judgement} against {against}: {gained}{_share(gap) if judgement == 'helps' else ''}."


def _without_spread(gain: Mapping[str, Any]) -> bool:
    """Accuracies are counts of samples: differences exactly alike are a tie of counts, as two seeds often have it."""
    return gain.get("sd") == 0 or gain["t_low"] == gain["t_high"]


def _unknown(name: str, against: str, gain: Mapping[str, Any] | None) -> str:
    """Why nothing can be said."""
    if not gain or not gain["n"]:
        why = "no seed has figures of both"
    elif gain["n"] == 1:
        why = f"one seed ({_points(gain['mean'])} points) does not show what another would change; run at least two"
    else:
        why = "the study holds no gain with its intervals"
    return f"Whether {name} helps against {against} is not known: {why}."


def _what_would_tell(gain: Mapping[str, Any], seeds: int | None) -> str:
    """How many seeds would tell the two apart."""
    if _without_spread(gain):
        return f"all {gain['n']} seeds differ by exactly the same, so the spread between seeds is not known: run more"
    if seeds is None:
        return "no number of seeds up to 10,000 would tell a difference of this size at this spread"
    # What was seen is a guess at the truth: where it says that these seeds should have told, a few more may.
    many = f"about {seeds:,} seeds" if seeds > gain["n"] else f"more than {gain['n']} seeds"
    return f"{many} would tell a difference of this size at this spread"


def _intervals(gain: Mapping[str, Any]) -> str:
    return (
        f"95 % interval {_points(gain['low'])} to {_points(gain['high'])} by bootstrap and "
        f"{_points(gain['t_low'])} to {_points(gain['t_high'])} by Student's t"
    )


def _share(gap: Mapping[str, Any] | None) -> str:
    """How much of the gap to the teacher was recovered, with its interval where both ends are known."""
    share = gap["share"] if gap else None
    if gap is None or share is None or not math.isfinite(share):
        return ""
    low, high = gap.get("low"), gap.get("high")
    ends = "" if low is None or high is None else f" (95 % interval {_whole(low)} to {_whole(high)})"
    if share > 1:
        return f", and stands above its teacher: {_whole(share)} of the gap{ends}"
    return f", and recovers {_whole(share)} of the gap to its teacher{ends}"


def _whole(share: float) -> str:
    return percent(share, digits=0)


def _points(value: float) -> str:
    return points(value, digits=2)
