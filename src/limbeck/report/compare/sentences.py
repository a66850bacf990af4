"""The verdict on each variant in words, by a rule fixed before the metrics are known."""

from __future__ import annotations

from typing import Final

from limbeck.report.compare.comparison import GapRecovered, PairedGain
from limbeck.report.formatting import format_percent, format_points
from limbeck.report.verdict import Outcome, classify_interval

__all__ = ["VARIANT_RULE", "classify_gain", "format_gain_verdict"]

VARIANT_RULE: Final = (
    "Rule: a variant improves if the whole 95 % interval of its difference to the baseline lies above zero, it "
    "degrades if the whole interval lies below, and otherwise there is no significant difference. With two seeds or "
    "more the interval is over seeds, paired by seed: at each end the wider one of a bootstrap and Student's t. With "
    "one seed it is a paired bootstrap over the test samples, which does not show what another seed would change."
)


def classify_gain(gain: PairedGain | None) -> Outcome:
    """What the rule says; an end that lies on zero counts as zero included.

    >>> classify_gain(PairedGain(mean=2.0, low=1.0, high=3.0, t_low=-0.4, t_high=4.4, num_seeds=3))
    'inconclusive'
    >>> classify_gain(PairedGain(mean=1.0, sample_interval=(0.2, 2)))
    'improves'
    """
    return classify_interval(gain.interval if gain else None)


def format_gain_verdict(
    variant: str,
    baseline: str | None,
    gain: PairedGain | None,
    gap_recovered: GapRecovered | None,
    *,
    num_samples: int | None,
) -> str:
    """The verdict on ``variant`` in one sentence; ``num_samples`` is how many test samples there are.

    >>> gain = PairedGain(mean=2.04, low=1.5, high=2.5, num_seeds=5)
    >>> text = format_gain_verdict("distilled", "baseline", gain, GapRecovered(0.66), num_samples=360)
    >>> for clause in text.split("; "):
    ...     print(clause)
    distilled improves: +2.0 points over baseline, 95 % interval +1.5 to +2.5 over 5 seeds
    66 % of the gap to the teacher.
    """
    if baseline is None:
        return f"Whether {variant} improves is unknown: there is no baseline to compare it with."
    gain_interval = gain.interval if gain else None
    if gain is None:
        return f"Whether {variant} improves is unknown: it has no finished seed in common with {baseline}."
    if gain_interval is None:
        return f"Whether {variant} improves is unknown: there is one seed, and its predictions were not saved."
    samples_note = (
        "the test samples of one seed" if num_samples is None else f"the {num_samples:,} test samples of one seed"
    )
    resampled_unit = f"{gain.num_seeds} seeds" if gain.resampled_unit == "seeds" else samples_note
    interval_text = (
        f"95 % interval {format_points(gain_interval[0])} to {format_points(gain_interval[1])} over {resampled_unit}"
    )
    outcome = classify_gain(gain)
    if outcome == "inconclusive":
        return (
            f"no significant difference between {variant} and {baseline}: {format_points(gain.mean)} points, "
            f"{interval_text}."
        )
    gap_note = (
        f"; {format_percent(gap_recovered.fraction, digits=0)} of the gap to the teacher"
        if gap_recovered and outcome == "improves"
        else ""
    )
    preposition = "over" if outcome == "improves" else "against"
    return (
        f"{variant} {outcome}: {format_points(gain.mean)} points {preposition} {baseline}, {interval_text}{gap_note}."
    )
