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

__all__ = [
    "SelectionRules",
    "TeacherSimilarity",
    "TeacherStats",
    "format_margin",
    "format_milliseconds",
    "teacher_warnings",
]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSimilarity:
    """Prediction agreement of two teachers as a fraction, and CKA of their features, where it is known."""

    first: str
    second: str
    agreement: float
    cka: float | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRules:
    """Thresholds for teachers.

    Args:
        min_margin: percentage points of accuracy by which a teacher must exceed the baseline.
        latency_budget: ms per image for all teachers; ``None``: ``max_latency_ratio`` times the latency of the student.
        max_latency_ratio: see ``latency_budget``. A training step takes a student about three forward passes, so at
            30 an epoch without a cache takes about ten times as long as without teachers.
        max_agreement: two teachers are too similar if their predictions agree on more than this fraction of samples …
        max_cka: … and the CKA of their features is above this. Agreement is not enough: two different teachers with
            99 % accuracy agree on 98 %.
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
            raise LimbeckError(f"min_margin must be at least 0 points, got {self.min_margin:g}; omit it to use 5")
        if self.latency_budget is not None and not 0 < self.latency_budget < math.inf:
            raise LimbeckError(
                f"latency_budget must be above 0 ms per image, got {self.latency_budget:g}; omit it to use "
                f"{self.max_latency_ratio:g} times the student's latency"
            )

    def resolve_latency_budget(self, student_latency: float) -> float:
        """The budget in ms per image.

        >>> SelectionRules().resolve_latency_budget(0.5), SelectionRules(latency_budget=8.0).resolve_latency_budget(0.5)
        (15.0, 8.0)
        """
        return self.max_latency_ratio * student_latency if self.latency_budget is None else self.latency_budget

    def is_margin_too_small(self, margin: float) -> bool:
        """Whether a margin in percentage points is below ``min_margin``, up to rounding.

        >>> SelectionRules().is_margin_too_small(100 * (0.85 - 0.80)), SelectionRules().is_margin_too_small(4.99)
        (False, True)
        """
        return margin < self.min_margin - 1e-9

    def is_too_similar(self, pair: TeacherSimilarity) -> bool:
        """Whether both agreement and CKA of two teachers are above the thresholds."""
        return pair.agreement > self.max_agreement and pair.cka is not None and pair.cka > self.max_cka


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherStats:
    """Measurements of one network on the validation split; ``None`` where unknown.

    Attributes:
        accuracy: accuracy as a fraction.
        ece: expected calibration error.
        latency_ms: ms per image.
        num_parameters: number of parameters.
    """

    accuracy: float | None
    ece: float | None
    latency_ms: float
    num_parameters: int | None


def teacher_warnings(
    teachers: Mapping[str, TeacherStats], student: TeacherStats, *, similarities: Sequence[TeacherSimilarity] = (),
    rules: SelectionRules = SelectionRules(), with_assistants: Collection[str] = (),
) -> list[str]:  # fmt: skip
    """A warning for each rule that the teachers break, in the order of the teachers.

    Args:
        teachers: measurements by teacher name.
        student: measurements of the baseline.
        similarities: similarities of pairs of teachers.
        rules: the thresholds.
        with_assistants: teachers with assistants or shortened training, whose size is not checked.

    >>> student = TeacherStats(accuracy=0.90, ece=0.02, latency_ms=0.1, num_parameters=1000)
    >>> big = TeacherStats(accuracy=0.92, ece=0.02, latency_ms=0.5, num_parameters=9000)
    >>> print(teacher_warnings({"big": big}, student)[0].split(":")[0])
    teacher 'big' is too close to the baseline on validation
    """
    budget = rules.resolve_latency_budget(student.latency_ms)
    budget_text = format_milliseconds(budget)
    if rules.latency_budget is None:
        budget_text += f" ({rules.max_latency_ratio:g} times the student)"
    messages: list[str] = []
    for name, teacher in teachers.items():
        messages += _accuracy_warnings(name, teacher, student, rules)
        if teacher.latency_ms > budget:
            messages.append(
                f"teacher {name!r} is too slow: {format_milliseconds(teacher.latency_ms)} per image, and the budget is "
                f"{budget_text}; use a smaller one, or limbeck select-teachers"
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
            f"the teachers are too slow together: {format_milliseconds(total_latency)} per image, and the budget is "
            f"{budget_text}; remove one, or use limbeck select-teachers"
        )
    for pair in filter(rules.is_too_similar, similarities):
        messages.append(
            f"the teachers {pair.first!r} and {pair.second!r} are too similar: they agree on "
            f"{100 * pair.agreement:.1f} % of the validation samples with CKA {pair.cka:.2f}; remove one"
        )
    return messages


def format_margin(margin: float, rules: SelectionRules) -> str:
    """A margin and its rule, with enough digits to distinguish them.

    >>> format_margin(1.31, SelectionRules()), format_margin(4.97, SelectionRules())
    ('+1.3 points, the rule is 5', '+4.97 points, the rule is 5')
    """
    digits = 2 if abs(margin - rules.min_margin) < 0.1 else 1
    return f"{margin:+.{digits}f} points, the rule is {rules.min_margin:g}"


def format_milliseconds(value: float) -> str:
    """A latency with three digits.

    >>> format_milliseconds(0.12345), format_milliseconds(1234.5)
    ('0.123 ms', '1234 ms')
    """
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"


def _accuracy_warnings(name: str, teacher: TeacherStats, student: TeacherStats, rules: SelectionRules) -> Iterator[str]:
    if teacher.accuracy is not None and student.accuracy is not None:
        margin = 100 * (teacher.accuracy - student.accuracy)
        if margin <= 0:
            yield f"teacher {name!r} is {-margin:.1f} points below the baseline on validation: use a better one"
        elif rules.is_margin_too_small(margin):
            yield f"teacher {name!r} is too close to the baseline on validation: {format_margin(margin, rules)}"
    if teacher.ece is not None and teacher.ece > rules.max_ece:
        yield (
            f"teacher {name!r} is badly calibrated (ECE {teacher.ece:.2f} on validation): another temperature may "
            "improve distillation"
        )
