"""What is likely wrong with a run, by rules with a number each: small pure functions on figures that a run wrote down.

A rule gives a sentence where it is broken and ``None`` where it is not. The numbers are rules of thumb and are said
with every finding, so that a reader can judge: they point at where to look, and prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from limbeck.core.errors import LimbeckError
from limbeck.report.formatting import points

__all__ = [
    "ALIGNED", "FLAT", "GAP", "RANK", "RATIO", "SMALL", "beside_largest", "capacity_gap", "effective_rank", "flat",
    "not_aligning", "saturated", "settled", "too_small", "worse",
]  # fmt: skip

SMALL = 0.01
"""A term whose gradient is below this share of the largest one hardly moves the student."""
FLAT = 0.98
"""A teacher's answer whose entropy is above this share of a guess's is flat: little is left of what it knows."""
RATIO = 20.0
"""Parameters of the teacher over those of the student, above which …"""
GAP = 0.25
"""… less than this share of the gap in accuracy recovered speaks of a gap in capacity."""
ALIGNED = 0.9
"""A loss on features that ends above this share of what it began with did not align."""
RANK = 0.1
"""A projection whose effective rank is below this share of its full one passes on a few directions only."""


def too_small(name: str, pull: float, largest: float, *, by: str = "gradient") -> str | None:
    """Whether a term pulls less than :data:`SMALL` of the largest one; both with their weights, a gradient or a loss.

    >>> too_small("soft", 0.5, 100.0)[:57]
    "the term 'soft' is 200 times too small: its gradient is 0"
    >>> too_small("soft", 2.0, 100.0) is None
    True
    """
    if not pull >= 0 or not largest > 0 or pull >= SMALL * largest:
        return None
    if pull == 0:
        return f"the term {name!r} does nothing: its {by} is 0, so raise its weight or see what it is computed from"
    return (
        f"the term {name!r} is {largest / pull:.0f} times too small: its {by} is {pull:.2g} where that of the largest "
        f"term is {largest:.2g} (the rule is {1 / SMALL:.0f} times), so raise its weight, or leave it away"
    )


def worse(name: str, teacher: float, student: float, *, than: str) -> str | None:
    """Whether a teacher is less accurate than a student on the same part; accuracies are fractions.

    >>> worse("big", 0.80, 0.85, than="the student alone").split(":")[0]
    "the teacher 'big' is worse than the student alone"
    >>> worse("big", 0.85, 0.80, than="the student alone") is None
    True
    """
    if not teacher < student:
        return None
    return (
        f"the teacher {name!r} is worse than {than}: {points(100 * (teacher - student))} points on validation, so it "
        "teaches its mistakes; train it longer, or choose another with limbeck teachers"
    )


def flat(name: str, flatness: float, tau: float | None) -> str | None:
    """Whether a temperature flattens what the teacher says: entropy as a share of a guess's above :data:`FLAT`.

    >>> flat("soft", 0.995, 40.0)[:53]
    'the temperature of soft, 40, flattens everything: the'
    >>> flat("soft", 0.9, 4.0) is None
    True
    """
    if not flatness > FLAT:
        return None
    told = "" if tau is None else f", {tau:.4g},"
    return (
        f"the temperature of {name}{told} flattens everything: the teacher's answers have {100 * flatness:.1f} % of "
        f"the entropy of a guess (the rule is {100 * FLAT:.0f} %), so lower tau"
    )


def capacity_gap(name: str, ratio: float, recovered: float) -> str | None:
    """Whether a much larger teacher was hardly followed: :data:`RATIO` times the parameters, below :data:`GAP`.

    >>> capacity_gap("big", 50.0, 0.1)[:48]
    "the teacher 'big' has 50 times the parameters of"
    >>> capacity_gap("big", 50.0, 0.6) is None, capacity_gap("big", 5.0, 0.1) is None
    (True, True)
    """
    if not (ratio > RATIO and recovered < GAP):
        return None
    return (
        f"the teacher {name!r} has {ratio:.0f} times the parameters of the student, which recovered "
        f"{100 * recovered:.0f} % of the gap in accuracy (the rule is {RATIO:g} times and {100 * GAP:.0f} %): a gap in "
        "capacity is likely, so put assistants between them (`assistants:`), stop the teacher early (`stop:`), or take "
        "a nearer one"
    )


def not_aligning(name: str, first: float, last: float) -> str | None:
    """Whether a loss on features ends near where it began: above :data:`ALIGNED` of it; both without their weight.

    >>> not_aligning("hint", 2.0, 1.9)[:40]
    "the features of 'hint' never align: the "
    >>> not_aligning("hint", 2.0, 0.5) is None
    True
    """
    if not (first > 0 and last > ALIGNED * first):
        return None
    return (
        f"the features of {name!r} never align: the term went from {first:.3g} to {last:.3g} without its weight (the "
        f"rule is to {100 * ALIGNED:.0f} %), so raise its weight, or tap layers that are as deep in both networks"
    )


def saturated(name: str, rank: float, full: int) -> str | None:
    """Whether a learned projection passes on a few directions only: an effective rank below :data:`RANK` of the full.

    >>> saturated("hint", 1.2, 64)[:41]
    "the projection of 'hint' is saturated: it"
    >>> saturated("hint", 40.0, 64) is None, saturated("hint", 1.0, 4) is None
    (True, True)
    """
    # Of a rank of 10 and less, one direction is a tenth or more: there the rule can say nothing.
    if not rank < RANK * full:
        return None
    return (
        f"the projection of {name!r} is saturated: it passes on {rank:.1f} of {full} directions (the rule is "
        f"{100 * RANK:.0f} %), so lower the weight of its term or the learning rate, or tap a wider layer"
    )


def effective_rank(singular: Sequence[float]) -> float:
    """The exponential of the entropy of the squared singular values as shares: how many directions carry a matrix.

    Roy & Vetterli, EUSIPCO 2007, take the values themselves; squared, they are shares of the variance that passes.

    >>> round(effective_rank([1.0, 1.0, 0.0]), 6), round(effective_rank([3.0, 1.0]), 6)
    (2.0, 1.384145)
    """
    squares = [value**2 for value in singular]
    whole = math.fsum(squares)
    if not math.isfinite(whole):
        raise LimbeckError("an effective rank is of finite singular values, and these are not: the projection diverged")
    if whole == 0:
        return 0.0
    return math.exp(-math.fsum(s / whole * math.log(s / whole) for s in squares if s > 0))


def settled(values: Sequence[float]) -> float | None:
    """The median of the later half of the figures that are there; ``None`` where none is.

    >>> settled([9.0, math.nan, 1.0, 3.0, 2.0]), settled([math.nan])
    (2.5, None)
    """
    known = [value for value in values if math.isfinite(value)]
    return median(known[len(known) // 2 :]) if known else None


def beside_largest(
    pulls: Mapping[str, Sequence[float]], weights: Mapping[str, Sequence[float]]
) -> list[tuple[str, float, float]]:
    """Each term with its pull and that of the largest term, settled over the epochs in which its weight was not 0.

    So a term that a schedule turns off is judged by the time when it was on. Pulls and weights are by epoch, NaN where
    there was none.

    >>> beside_largest({"a": [1.0, 8.0], "b": [4.0, 0.0]}, {"b": [1.0, 0.0]})
    [('a', 8.0, 8.0), ('b', 4.0, 4.0)]
    """
    epochs = list(zip(*pulls.values(), strict=True))
    most = [max((abs(value) for value in each if math.isfinite(value)), default=math.nan) for each in epochs]
    found = []
    for name, values in pulls.items():
        on = [weight != 0 for weight in weights.get(name, ())] or [True] * len(values)
        mine = [abs(value) if there else math.nan for value, there in zip(values, on, strict=True)]
        largest = [one if math.isfinite(value) else math.nan for one, value in zip(most, mine, strict=True)]
        own, other = settled(mine), settled(largest)
        if own is not None and other is not None:
            found.append((name, own, other))
    return found
