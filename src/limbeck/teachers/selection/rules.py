"""Rules for good teachers, and a warning for each rule that is broken.

A much larger teacher may train a student worse than a smaller one; assistants between them (Mirzadeh et al., 2020,
https://arxiv.org/abs/1902.03393) or a teacher trained for fewer steps (Cho & Hariharan, 2019,
https://arxiv.org/abs/1910.01348) help.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec

__all__ = [
    "SelectionRules",
    "TeacherSimilarity",
    "TeacherStats",
    "format_difference",
    "format_margin",
    "format_milliseconds",
    "teacher_warnings",
]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSimilarity:
    """How similar two teachers are; ``None`` where unknown.

    Attributes:
        first: name of one teacher.
        second: name of the other.
        agreement: fraction of samples with the same predicted class.
        cka: CKA of their features.
        correlation: of the metric by sample, for teachers without predicted classes.
    """

    first: str
    second: str
    agreement: float | None
    cka: float | None
    correlation: float | None = None

    @property
    def prediction_similarity(self) -> float | None:
        """The agreement; without predicted classes the correlation."""
        return self.correlation if self.agreement is None else self.agreement


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRules:
    """Thresholds for teachers.

    Args:
        min_margin: by how much a teacher must be better than the baseline, in the unit of differences of the metric.
        latency_budget: ms per sample for all teachers; ``None``: ``max_latency_ratio`` times that of the student.
        max_latency_ratio: see ``latency_budget``. A training step takes a student about three forward passes, so at
            30 an epoch without a cache takes about ten times as long as without teachers.
        max_agreement: two teachers are too similar if their predictions agree on more than this fraction of samples
            (without predicted classes: if their metrics by sample correlate more) …
        max_cka: … and the CKA of their features is above this. Agreement is not enough: two different teachers that
            are right on 99 % agree on 98 %.
        max_ece: expected calibration error above which there is a warning.
        max_parameter_ratio: number of parameters, relative to the student, above which there is a warning.
    """

    min_margin: float = 5.0
    latency_budget: float | None = None
    max_latency_ratio: float = 30.0
    max_agreement: float = 0.98
    max_cka: float = 0.95
    max_ece: float = 0.1
    max_parameter_ratio: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_margin < math.inf:
            raise LimbeckError(
                f"min_margin must be at least 0, got {self.min_margin:g}; omit it to use the default of the metric"
            )
        if self.latency_budget is not None and not 0 < self.latency_budget < math.inf:
            raise LimbeckError(
                f"latency_budget must be above 0 ms per sample, got {self.latency_budget:g}; omit it to use "
                f"{self.max_latency_ratio:g} times the student's latency"
            )

    @classmethod
    def for_metric(cls, metric: MetricSpec, *, min_margin: float | None = None) -> SelectionRules:
        """The rules with a margin of ten times the smallest meaningful gap of ``metric``, such as 5 points.

        >>> SelectionRules.for_metric(MetricSpec(name="miou", label="Mean IoU")).min_margin
        5.0
        """
        default = round(10 * metric.min_gap * metric.display_scale, 10)
        return cls(min_margin=default if min_margin is None else min_margin)

    def resolve_latency_budget(self, student_latency: float) -> float:
        """The budget in ms per sample.

        >>> SelectionRules().resolve_latency_budget(0.5), SelectionRules(latency_budget=8.0).resolve_latency_budget(0.5)
        (15.0, 8.0)
        """
        return self.max_latency_ratio * student_latency if self.latency_budget is None else self.latency_budget

    def is_margin_too_small(self, margin: float) -> bool:
        """Whether a margin is below ``min_margin``, up to rounding.

        >>> SelectionRules().is_margin_too_small(100 * (0.85 - 0.80)), SelectionRules().is_margin_too_small(4.99)
        (False, True)
        """
        return margin < self.min_margin - 1e-9

    def is_too_similar(self, pair: TeacherSimilarity) -> bool:
        """Whether both the similarity of predictions and the CKA of two teachers are above the thresholds."""
        similarity = pair.prediction_similarity
        return similarity is not None and similarity > self.max_agreement and (pair.cka or 0.0) > self.max_cka


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherStats:
    """Measurements of one network on the validation split; ``None`` where unknown.

    Attributes:
        value: the primary metric, in its own scale.
        ece: expected calibration error.
        latency_ms: ms per sample.
        num_parameters: number of parameters.
    """

    value: float | None
    ece: float | None
    latency_ms: float
    num_parameters: int | None


def teacher_warnings(
    teachers: Mapping[str, TeacherStats], student: TeacherStats, *, metric: MetricSpec,
    similarities: Sequence[TeacherSimilarity] = (), rules: SelectionRules | None = None,
    with_assistants: Collection[str] = (),
) -> list[str]:  # fmt: skip
    """A warning for each rule that the teachers break, in the order of the teachers.

    Args:
        teachers: measurements by teacher name.
        student: measurements of the baseline.
        metric: the primary metric.
        similarities: similarities of pairs of teachers.
        rules: the thresholds; ``None``: :meth:`SelectionRules.for_metric`.
        with_assistants: teachers with assistants or shortened training, whose size is not checked.

    >>> student = TeacherStats(value=0.90, ece=0.02, latency_ms=0.1, num_parameters=1000)
    >>> big = TeacherStats(value=0.92, ece=0.02, latency_ms=0.5, num_parameters=9000)
    >>> teacher_warnings({"big": big}, student, metric=MetricSpec(name="miou", label="Mean IoU"))
    ["teacher 'big' is too close to the baseline on validation: +2.0 points, the threshold is 5"]
    """
    rules = SelectionRules.for_metric(metric) if rules is None else rules
    budget = rules.resolve_latency_budget(student.latency_ms)
    budget_text = format_milliseconds(budget)
    if rules.latency_budget is None:
        budget_text += f" ({rules.max_latency_ratio:g} times the student)"
    messages: list[str] = []
    for name, teacher in teachers.items():
        messages += _metric_warnings(name, teacher, student, rules, metric)
        if teacher.latency_ms > budget:
            messages.append(
                f"teacher {name!r} is too slow: {format_milliseconds(teacher.latency_ms)} per sample, and the budget "
                f"is {budget_text}; use a smaller one, or limbeck select-teachers"
            )
        sizes = (teacher.num_parameters, student.num_parameters)
        if name not in with_assistants and sizes[0] and sizes[1] and sizes[0] > rules.max_parameter_ratio * sizes[1]:
            messages.append(
                f"teacher {name!r} has {sizes[0] / sizes[1]:.0f} times the parameters of the student, above "
                f"{rules.max_parameter_ratio:g}, where a smaller teacher may give a better student: add `assistants:` "
                "to the recipe, or set `train_fraction:` of the teacher"
            )
    total_latency = math.fsum(teacher.latency_ms for teacher in teachers.values())
    if total_latency > budget and all(teacher.latency_ms <= budget for teacher in teachers.values()):
        messages.append(
            f"the teachers are too slow together: {format_milliseconds(total_latency)} per sample, and the budget is "
            f"{budget_text}; remove one, or use limbeck select-teachers"
        )
    for pair in filter(rules.is_too_similar, similarities):
        similarity = (
            f"they agree on {100 * pair.agreement:.1f} % of the validation samples"
            if pair.agreement is not None
            else f"their {metric.text} by sample has a correlation of {pair.correlation:.2f}"
        )
        messages.append(
            f"the teachers {pair.first!r} and {pair.second!r} are too similar: {similarity} with CKA {pair.cka:.2f}; "
            "remove one"
        )
    return messages


def format_margin(margin: float, rules: SelectionRules, metric: MetricSpec) -> str:
    """A margin and its rule, with enough digits to distinguish them.

    >>> metric = MetricSpec(name="miou", label="Mean IoU")
    >>> [format_margin(margin, SelectionRules(), metric) for margin in (1.31, 4.97)]
    ['+1.3 points, the threshold is 5', '+4.97 points, the threshold is 5']
    """
    digits = metric.digits + (abs(margin - rules.min_margin) < 10**-metric.digits)
    return f"{format_difference(margin, metric, digits=digits)}, the threshold is {rules.min_margin:g}"


def format_difference(difference: float, metric: MetricSpec, *, digits: int | None = None) -> str:
    """A difference with its sign and unit.

    >>> format_difference(1.25, MetricSpec(name="rmse", label="RMSE", unit="", digits=2))
    '+1.25'
    """
    return f"{difference:+.{metric.digits if digits is None else digits}f} {metric.difference_unit}".rstrip()


def format_milliseconds(value: float) -> str:
    """A latency with three digits.

    >>> format_milliseconds(0.12345), format_milliseconds(1234.5)
    ('0.123 ms', '1234 ms')
    """
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"


def _metric_warnings(
    name: str, teacher: TeacherStats, student: TeacherStats, rules: SelectionRules, metric: MetricSpec
) -> Iterator[str]:
    if teacher.value is not None and student.value is not None:
        margin = metric.gain(teacher.value, student.value)
        if margin <= 0:
            difference = format_difference(margin, metric)[1:]
            yield f"teacher {name!r} is {difference} worse than the baseline on validation: use a better one"
        elif rules.is_margin_too_small(margin):
            yield f"teacher {name!r} is too close to the baseline on validation: {format_margin(margin, rules, metric)}"
    if teacher.ece is not None and teacher.ece > rules.max_ece:
        yield (
            f"teacher {name!r} is badly calibrated (ECE {teacher.ece:.2f} on validation): another temperature may "
            "improve distillation"
        )
