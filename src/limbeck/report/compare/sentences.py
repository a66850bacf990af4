"""The verdict on each arm in words, by a rule fixed before anybody looks at the figures."""

from __future__ import annotations

import math
from typing import Final

from limbeck.report.compare.comparison import Gain, Judgement, Share
from limbeck.report.formatting import percent, points

__all__ = ["RULE", "judged", "sentence"]

RULE: Final = (
    "Rule: an arm helps if the whole 95 % interval of its difference to the control lies above zero, it hurts if the "
    "whole interval lies below, and otherwise the two cannot be told apart. With two seeds or more the interval is "
    "over seeds, paired by seed: at each end the wider one of a bootstrap and Student's t. With one seed it is a "
    "paired bootstrap over the test samples, which does not tell what another seed would change."
)


def judged(gain: Gain | None) -> Judgement:
    """What the rule says; an end that lies on zero counts as zero included.

    >>> judged(Gain(mean=2.0, low=1.0, high=3.0, t_low=-0.4, t_high=4.4, n=3)), judged(Gain(mean=1.0, samples=(0.2, 2)))
    ('open', 'helps')
    """
    ends = gain.interval if gain else None
    if ends is None or not all(map(math.isfinite, ends)):
        return "unknown"
    return "helps" if ends[0] > 0 else "hurts" if ends[1] < 0 else "open"


def sentence(arm: str, control: str | None, gain: Gain | None, gap: Share | None, *, examples: int | None) -> str:
    """The verdict on ``arm`` in one sentence; ``examples`` is how many test samples there are.

    >>> sentence("distilled", "alone", Gain(mean=2.04, low=1.5, high=2.5, n=5), Share(0.66), examples=360)
    'distilled helps: +2.0 points over alone, 95 % interval +1.5 to +2.5 over 5 seeds; 66 % of the gap to the teacher.'
    """
    if control is None:
        return f"Whether {arm} helps is not known: there is no control to compare it with."
    ends = gain.interval if gain else None
    if gain is None:
        return f"Whether {arm} helps is not known: it has no finished seed in common with {control}."
    if ends is None:
        return f"Whether {arm} helps is not known: one seed alone, and no answers to the test samples beside it."
    samples = "the test samples of one seed" if examples is None else f"the {examples:,} test samples of one seed"
    over = f"{gain.n} seeds" if gain.over == "seeds" else samples
    interval = f"95 % interval {points(ends[0])} to {points(ends[1])} over {over}"
    judgement = judged(gain)
    if judgement == "open":
        return f"{arm} and {control} cannot be told apart: {points(gain.mean)} points, {interval}."
    share = f"; {percent(gap.share, digits=0)} of the gap to the teacher" if gap and judgement == "helps" else ""
    side = "over" if judgement == "helps" else "against"
    return f"{arm} {judgement}: {points(gain.mean)} points {side} {control}, {interval}{share}."
