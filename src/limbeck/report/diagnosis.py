"""Rules that detect likely problems of a run: pure functions of its metrics, each with a threshold.

A rule returns a sentence where it is violated, and ``None`` otherwise. The thresholds are rules of thumb, stated in
every message: they show where to look, and prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.report.formatting import format_gain

MIN_LOSS_FRACTION = 0.01
"""A loss whose gradient norm is below this fraction of the largest one hardly affects the student."""
MAX_TEACHER_ENTROPY = 0.98
"""Teacher outputs whose entropy is above this fraction of that of a uniform distribution carry little information."""
CAPACITY_RATIO = 20.0
"""A ratio of teacher to student parameters above this …"""
MIN_GAP_RECOVERED = 0.25
"""… with less than this fraction of the gap recovered indicates a capacity gap."""
MAX_FINAL_FRACTION = 0.9
"""A feature loss that ends above this fraction of its first value did not align the features."""
MIN_RANK_FRACTION = 0.1
"""A projection whose effective rank is below this fraction of its full rank has collapsed to few dimensions."""


def check_loss_scale(name: str, magnitude: float, largest: float, *, measure: str = "gradient") -> str | None:
    """Whether a loss or its gradient, with its weight, is below :data:`MIN_LOSS_FRACTION` of the largest one.

    >>> check_loss_scale("kd", 0.5, 100.0)[:55]
    "the loss 'kd' is 200 times too small: its gradient is 0"
    >>> check_loss_scale("kd", 2.0, 100.0) is None
    True
    """
    if not magnitude >= 0 or not largest > 0 or magnitude >= MIN_LOSS_FRACTION * largest:
        return None
    if magnitude == 0:
        return f"the loss {name!r} does nothing: its {measure} is 0, so raise its weight or check its inputs"
    return (
        f"the loss {name!r} is {largest / magnitude:.0f} times too small: its {measure} is {magnitude:.2g} where "
        f"that of the largest loss is {largest:.2g} (the threshold is {1 / MIN_LOSS_FRACTION:.0f} times), so raise its "
        "weight, or remove it"
    )


def check_teacher_metric(
    name: str, teacher: float, student: float, *, metric: MetricSpec, reference: str
) -> str | None:
    """Whether a teacher is worse than a student on the same split, by ``metric``."""
    gain = metric.gain(teacher, student)
    if not gain < 0:
        return None
    return (
        f"the teacher {name!r} is worse than {reference} in {metric.text}: {format_gain(gain, metric)} on "
        "validation, so the student learns its errors; train it longer, or choose another with limbeck select-teachers"
    )


def check_teacher_entropy(name: str, teacher_entropy: float, temperature: float | None) -> str | None:
    """Whether a temperature is too high: the relative entropy of the teacher is above :data:`MAX_TEACHER_ENTROPY`."""
    if not teacher_entropy > MAX_TEACHER_ENTROPY:
        return None
    temperature_note = "" if temperature is None else f", {temperature:.4g},"
    return (
        f"the temperature of {name}{temperature_note} is too high: the teacher's outputs have "
        f"{100 * teacher_entropy:.1f} % of the entropy of a uniform distribution (the threshold is "
        f"{100 * MAX_TEACHER_ENTROPY:.0f} %), so lower the temperature"
    )


def check_capacity_gap(name: str, ratio: float, gap_recovered: float, *, metric: MetricSpec) -> str | None:
    """Whether the student recovers little of the gap to a much larger teacher.

    See :data:`CAPACITY_RATIO` and :data:`MIN_GAP_RECOVERED`.
    """
    if not (ratio > CAPACITY_RATIO and gap_recovered < MIN_GAP_RECOVERED):
        return None
    return (
        f"the teacher {name!r} has {ratio:.0f} times the parameters of the student, which recovered "
        f"{100 * gap_recovered:.0f} % of the gap in {metric.text} (the threshold is {CAPACITY_RATIO:g} times and "
        f"{100 * MIN_GAP_RECOVERED:.0f} %): a capacity gap is likely, so put assistants between them "
        "(`assistants:`), stop the teacher early (`train_fraction:`), or use a smaller teacher"
    )


def check_feature_alignment(name: str, first: float, last: float) -> str | None:
    """Whether a feature loss, without its weight, ends above :data:`MAX_FINAL_FRACTION` of its first value."""
    if not (first > 0 and last > MAX_FINAL_FRACTION * first):
        return None
    return (
        f"the features of {name!r} never align: the loss went from {first:.3g} to {last:.3g} without its weight (the "
        f"rule is to {100 * MAX_FINAL_FRACTION:.0f} %), so raise its weight, or use feature layers that are as "
        "deep in both networks"
    )


def check_projection_rank(name: str, rank: float, full_rank: int) -> str | None:
    """Whether the effective rank of a learned projection is below :data:`MIN_RANK_FRACTION` of its full rank.

    With a full rank of 10 or less, rank 1 is a tenth or more, so the rule never applies.
    """
    if not rank < MIN_RANK_FRACTION * full_rank:
        return None
    return (
        f"the projection of {name!r} has collapsed: its effective rank is {rank:.1f} of {full_rank} (the threshold is "
        f"{100 * MIN_RANK_FRACTION:.0f} %), so lower the weight of its loss or the learning rate, or use a wider "
        "feature layer"
    )


def effective_rank(singular_values: Sequence[float]) -> float:
    """The effective rank: the exponential of the entropy of the normalized squared singular values.

    Roy & Vetterli, EUSIPCO 2007, normalize the values themselves; squared, they are fractions of the variance.

    >>> round(effective_rank([1.0, 1.0, 0.0]), 6), round(effective_rank([3.0, 1.0]), 6)
    (2.0, 1.384145)
    """
    squares = [value**2 for value in singular_values]
    total = math.fsum(squares)
    if not math.isfinite(total):
        raise LimbeckError(
            "an effective rank needs finite singular values: the projection diverged, so lower the learning rate"
        )
    if total == 0:
        return 0.0
    return math.exp(-math.fsum(s / total * math.log(s / total) for s in squares if s > 0))


def median_of_second_half(values: Sequence[float]) -> float | None:
    """The median of the second half of the finite values; ``None`` where there is none.

    >>> median_of_second_half([9.0, math.nan, 1.0, 3.0, 2.0]), median_of_second_half([math.nan])
    (2.5, None)
    """
    finite = [value for value in values if math.isfinite(value)]
    return median(finite[len(finite) // 2 :]) if finite else None


def compare_with_largest(
    magnitudes: Mapping[str, Sequence[float]], weights: Mapping[str, Sequence[float]]
) -> list[tuple[str, float, float]]:
    """Each loss with its magnitude and the largest one, over the epochs in which its weight was not 0.

    A loss that a schedule turns off is judged by the epochs in which it was on. Magnitudes and weights are by epoch,
    NaN where there was none.

    >>> compare_with_largest({"a": [1.0, 8.0], "b": [4.0, 0.0]}, {"b": [1.0, 0.0]})
    [('a', 8.0, 8.0), ('b', 4.0, 4.0)]
    """
    epochs = list(zip(*magnitudes.values(), strict=True))
    maxima = [max((abs(value) for value in epoch if math.isfinite(value)), default=math.nan) for epoch in epochs]
    result = []
    for name, values in magnitudes.items():
        is_active = [weight != 0 for weight in weights.get(name, ())] or [True] * len(values)
        pairs = [
            (abs(value), maximum) for value, maximum, active in zip(values, maxima, is_active, strict=True)
            if active and math.isfinite(value)
        ]  # fmt: skip
        magnitude, largest = (median_of_second_half([pair[index] for pair in pairs]) for index in (0, 1))
        if magnitude is not None and largest is not None:
            result.append((name, magnitude, largest))
    return result
