"""Verdicts in one sentence, by one rule that is fixed before the metrics are known.

A 95 % interval of a gain decides: above zero it ``improves``, below zero it ``degrades``, and one that includes zero is
``inconclusive`` (no significant difference). The interval is over test samples for a run, and over seeds, paired by
seed, for a study and for a comparison of several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from limbeck.core.metric_spec import MetricSpec
from limbeck.core.roles import Role
from limbeck.report.formatting import format_gain, format_gain_interval, format_percent

if TYPE_CHECKING:
    from limbeck.report.compare.comparison import GapRecovered, PairedGain

RULE: Final = (
    "Rule: distillation improves a metric if the whole 95 % interval of the gain over the baseline lies above zero, "
    "it degrades it if the whole interval lies below, and otherwise there is no significant difference. The metric is "
    "the primary one of the task; where lower is better, a gain is a decrease."
)
RULE_OVER_SEEDS: Final = (
    "Rule: a variant improves if both 95 % intervals of its gain, paired by seed, lie above zero: the bootstrap over "
    "seeds and Student's t; it degrades if both lie below, and otherwise there is no significant difference. One seed "
    "shows nothing, nor do seeds whose differences are all exactly equal, since the spread between seeds is then "
    "unknown."
)
VARIANT_RULE: Final = (
    "Rule: a variant improves if the whole 95 % interval of its difference to the baseline lies above zero, it "
    "degrades if the whole interval lies below, and otherwise there is no significant difference. With two seeds or "
    "more the interval is over seeds, paired by seed: at each end the wider one of a bootstrap and Student's t. With "
    "one seed it is a paired bootstrap over the test samples, which does not show what another seed would change."
)
Outcome = Literal["improves", "degrades", "inconclusive", "unknown"]
"""Of a run, of a study and of a comparison alike."""
_PREPOSITIONS: Final[Mapping[Outcome, str]] = {"improves": "over", "degrades": "against"}


def classify_interval(interval: Sequence[float | None] | None) -> Outcome:
    """The outcome for an interval in points; an end at zero counts as zero included.

    >>> tuple(map(classify_interval, ((0.4, 5.8), (-1.0, 2.0), (-3.0, -0.2), None)))
    ('improves', 'inconclusive', 'degrades', 'unknown')
    """
    bounds = [bound for bound in interval or () if bound is not None and math.isfinite(bound)]
    if len(bounds) != 2:
        return "unknown"
    low, high = bounds
    return "improves" if low > 0 else "degrades" if high < 0 else "inconclusive"


def classify_gain(gain: PairedGain | None) -> Outcome:
    """The outcome for a gain over seeds or, with one seed, over test samples."""
    return classify_interval(gain.interval if gain else None)


def classify_gain_over_seeds(gain: Mapping[str, Any] | None) -> Outcome:
    """The outcome for a gain over seeds: both intervals, that is the wider end of the two on each side, decide.

    Args:
        gain: as returned by ``limbeck.evaluation.paired_mean_ci``; ``None`` or fewer than two seeds is unknown.

    >>> ends = {"low": 1.0, "high": 3.0, "t_low": 0.2, "t_high": 3.8, "num_seeds": 5}
    >>> tuple(map(classify_gain_over_seeds, (ends, {**ends, "t_low": -0.5}, {**ends, "num_seeds": 1})))
    ('improves', 'inconclusive', 'unknown')
    """
    if not gain or gain["num_seeds"] < 2:
        return "unknown"
    ends = [gain[key] for key in ("low", "t_low", "high", "t_high")]
    if not all(end is not None and math.isfinite(end) for end in ends):
        return "unknown"
    return "inconclusive" if _has_zero_spread(gain) else classify_interval((min(ends), max(ends)))


def format_verdict(
    models: Mapping[str, Any],
    gain: float | None,
    interval: Sequence[float | None] | None,
    gap_recovered: float | None,
    *,
    metric: MetricSpec,
) -> str:
    """The verdict on a run (see :data:`RULE`).

    Args:
        models: ``models`` of the record: by name, each with ``role`` and ``test`` (or null).
        gain: how much better distilled is than baseline on the test set, in the metric's unit of differences.
        interval: its 95 % interval, low and high.
        gap_recovered: (distilled - baseline) / (teacher - baseline); ``None`` where there is no gap.
        metric: the primary metric.
    """
    splits = {model.get("role"): model.get("test") for model in models.values()}
    baseline, distilled = (
        split if split and split["metrics"].get(metric.name) is not None else None
        for split in (splits.get(Role.BASELINE), splits.get(Role.DISTILLED))
    )
    outcome = classify_interval(interval)
    if outcome == "unknown" or interval is None or gain is None or not math.isfinite(gain):
        reason = "the record holds no gain with its interval"
        if Role.BASELINE not in splits:
            reason = "the student was not trained without a teacher, so there is no baseline"
        elif not baseline or not distilled:
            reason = f"the test set was not opened for both, so there is no {metric.text} to compare"
        return f"Whether distillation improves {metric.text} is unknown: {reason}."
    values = [split["metrics"][metric.name] for split in (distilled, baseline)] if baseline and distilled else None
    values_note, interval_text = _format_values(values, metric), format_gain_interval(interval, metric)
    n = f"n = {distilled['num_samples']}" if distilled else "n not recorded"
    if outcome == "inconclusive":
        return (
            f"No significant difference between distilled and baseline ({n}): the difference is "
            f"{format_gain(gain, metric)}{values_note}, and its 95 % interval, {interval_text}, includes "
            "zero."
        )
    if outcome == "degrades":
        return (
            f"Distillation degrades {metric.text}: the student loses {_format_size(gain, metric)} against the "
            f"baseline{values_note}, 95 % interval {interval_text}, {n}."
        )
    gap_text = ""
    if gap_recovered is not None and math.isfinite(gap_recovered):
        percent = format_percent(gap_recovered, digits=0)
        gap_text = f", and recovers {percent} of the gap to its teacher"
        gap_text = f", and exceeds its teacher ({percent} of the gap)" if gap_recovered > 1 else gap_text
    return (
        f"Distillation improves {metric.text}: the student gains {_format_size(gain, metric)} over the "
        f"baseline{values_note}, "
        f"95 % interval {interval_text}, {n}{gap_text}."
    )


def format_vs_no_assistants(gain: float, interval: Sequence[float], *, metric: MetricSpec) -> str:
    """The verdict on assistants between teacher and student, by the same rule.

    Args:
        gain: gain over the student distilled from the teachers without assistants.
        interval: its 95 % interval, low and high.
        metric: the primary metric.
    """
    outcome, interval_text = classify_interval(interval), format_gain_interval(interval, metric)
    if outcome == "inconclusive":
        return (
            "The assistants make no significant difference: the difference to the same student without them is "
            f"{format_gain(gain, metric)}, and its 95 % interval, {interval_text}, includes zero."
        )
    return (
        f"The assistants {outcome.removesuffix('s')} {metric.text}: {format_gain(gain, metric)} against the "
        f"same student without them, 95 % interval {interval_text}."
    )


def format_verdict_over_seeds(
    name: str,
    baseline: str,
    gain: Mapping[str, Any] | None,
    *,
    gap_recovered: Mapping[str, Any] | None = None,
    seeds_needed: int | None = None,
    values: Sequence[float] | None = None,
    metric: MetricSpec,
) -> str:
    """The verdict on one variant of a study (see :data:`RULE_OVER_SEEDS`).

    Args:
        name: the variant.
        baseline: the variant it is compared with.
        gain: how much better ``name`` is, as ``limbeck.evaluation.paired_mean_ci`` returns it.
        gap_recovered: the fraction of the gap to the teacher, as ``limbeck.evaluation.gap_recovered_ci`` returns it.
        seeds_needed: as ``limbeck.evaluation.required_num_seeds`` returns it, stated where there is no significant
            difference; ``None`` means that no number up to 10,000 would show one.
        values: the mean metric of ``name`` and of ``baseline``, in its own scale.
        metric: the primary metric.
    """
    outcome = classify_gain_over_seeds(gain)
    if gain is None or outcome == "unknown":
        reason = "the study holds no gain with its intervals"
        if not gain or not gain["num_seeds"]:
            reason = "no seed has metrics of both"
        elif gain["num_seeds"] == 1:
            text = format_gain(gain["mean"], metric, digits=2)
            reason = f"one seed ({text}) does not show what another would change; run at least two"
        return f"Whether {name} improves over {baseline} is unknown: {reason}."
    n = f"n = {gain['num_seeds']} seeds"
    gain_text = (
        f"{format_gain(gain['mean'], metric, digits=2)}{_format_values(values, metric)}, 95 % interval "
        f"{format_gain_interval((gain['low'], gain['high']), metric, digits=2)} by bootstrap and "
        f"{format_gain_interval((gain['t_low'], gain['t_high']), metric, digits=2)} by Student's t"
    )
    if outcome == "inconclusive":
        return (
            f"no significant difference between {name} and {baseline} ({n}): the difference is {gain_text}; "
            f"{_format_seeds_needed(gain, seeds_needed)}."
        )
    gap_text = _format_gap_with_interval(gap_recovered) if outcome == "improves" else ""
    return f"{name} {outcome} {_PREPOSITIONS[outcome]} {baseline}: {gain_text}, {n}{gap_text}."


def format_gain_verdict(
    variant: str,
    baseline: str | None,
    gain: PairedGain | None,
    gap_recovered: GapRecovered | None,
    *,
    num_samples: int | None,
    metric: MetricSpec,
) -> str:
    """The verdict on one variant of a comparison (see :data:`VARIANT_RULE`); ``num_samples`` counts test samples.

    >>> from limbeck.report.compare.comparison import GapRecovered, PairedGain
    >>> gain = PairedGain(mean=2.04, low=1.5, high=2.5, num_seeds=5)
    >>> format_gain_verdict("kd", "baseline", gain, None, num_samples=360, metric=MetricSpec(name="f1", label="F1"))
    'kd improves: +2.0 points over baseline, 95 % interval +1.5 to +2.5 over 5 seeds.'
    """
    outcome = classify_gain(gain)
    if baseline is None or gain is None or gain.interval is None:
        reason = "there is one seed, and its predictions were not saved"
        if baseline is None:
            reason = "there is no baseline to compare it with"
        elif gain is None:
            reason = f"it has no finished seed in common with {baseline}"
        return f"Whether {variant} improves is unknown: {reason}."
    samples = "the test samples" if num_samples is None else f"the {num_samples:,} test samples"
    resampled_unit = f"{gain.num_seeds} seeds" if gain.resampled_unit == "seeds" else f"{samples} of one seed"
    interval_text = f"95 % interval {format_gain_interval(gain.interval, metric)} over {resampled_unit}"
    points = format_gain(gain.mean, metric)
    if outcome == "inconclusive":
        return f"no significant difference between {variant} and {baseline}: {points}, {interval_text}."
    gap_note = ""
    if gap_recovered and outcome == "improves":
        gap_note = f"; {format_percent(gap_recovered.fraction, digits=0)} of the gap to the teacher"
    return f"{variant} {outcome}: {points} {_PREPOSITIONS[outcome]} {baseline}, {interval_text}{gap_note}."


def _has_zero_spread(gain: Mapping[str, Any]) -> bool:
    """Metrics that count samples are coarse, so equal differences are a coincidence that is common with two seeds."""
    return gain.get("std") == 0 or gain["t_low"] == gain["t_high"]


def _format_values(values: Sequence[float] | None, metric: MetricSpec) -> str:
    return f" ({' against '.join(map(metric.format, values))})" if values else ""


def _format_size(gain: float, metric: MetricSpec) -> str:
    return format_gain(abs(gain), metric).removeprefix("+")


def _format_seeds_needed(gain: Mapping[str, Any], seeds: int | None) -> str:
    num_seeds = gain["num_seeds"]
    if _has_zero_spread(gain):
        return f"all {num_seeds} seeds differ by exactly the same, so the spread between seeds is unknown: run more"
    seed_count = "no number of seeds up to 10,000"
    if seeds is not None:
        # The required number is estimated from the observed spread: it can lie below the number that was run.
        seed_count = f"about {seeds:,} seeds" if seeds > num_seeds else f"more than {num_seeds} seeds"
    return f"{seed_count} would show a difference of this size at this spread"


def _format_gap_with_interval(gap_recovered: Mapping[str, Any] | None) -> str:
    fraction = gap_recovered["fraction"] if gap_recovered else None
    if gap_recovered is None or fraction is None or not math.isfinite(fraction):
        return ""
    percent, low, high = (
        format_percent(end, digits=0) for end in (fraction, gap_recovered.get("low"), gap_recovered.get("high"))
    )
    has_interval = gap_recovered.get("low") is not None and gap_recovered.get("high") is not None
    interval = f" (95 % interval {low} to {high})" if has_interval else ""
    if fraction > 1:
        return f", and exceeds its teacher: {percent} of the gap{interval}"
    return f", and recovers {percent} of the gap to its teacher{interval}"
