"""What makes a good teacher, as rules with numbers, and the sentences on those that are broken.

That a much larger teacher can teach worse than a nearer one, and what helps (a chain of assistants, a teacher whose
training was stopped early), is from Mirzadeh et al. (2020, https://arxiv.org/abs/1902.03393) and Cho & Hariharan (2019,
https://arxiv.org/abs/1910.01348).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from limbeck.core.errors import LimbeckError

__all__ = [
    "SelectionRules",
    "TeacherSimilarity",
    "TeacherStats",
    "format_margin",
    "format_milliseconds",
    "is_margin_too_small",
    "is_too_similar",
    "teacher_warnings",
]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRules:
    """The numbers that teachers are judged by.

    Attributes:
        min_margin: points of accuracy by which a teacher is to be better than the student alone.
        latency_budget: ms a picture for all teachers together; ``None``: ``max_latency_ratio`` the latency of the student.
        max_latency_ratio: see ``latency_budget``. A training step costs a student about three forward passes, so at 30 an epoch without a
            cache takes some ten times as long as without teachers.
        max_agreement: two teachers are too alike if they give the same answer to more than this share of the samples …
        max_cka: … and their features are this alike as well. One alone means little: two very different teachers that are
            right on 99 % agree on 98 %.
        max_ece: a calibration error above this is worth a hint.
        max_parameter_ratio: parameters of a teacher over those of the student, above which the gap in capacity is large.
    """

    min_margin: float = 5.0
    latency_budget: float | None = None
    max_latency_ratio: float = 30.0
    max_agreement: float = 0.98
    max_cka: float = 0.95
    max_ece: float = 0.1
    max_parameter_ratio: float = 20.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.min_margin) or self.min_margin < 0:
            raise LimbeckError(
                f"the margin is points of accuracy, 0 or more, not {self.min_margin:g}: leave it away for 5"
            )
        if self.latency_budget is not None and not (math.isfinite(self.latency_budget) and self.latency_budget > 0):
            raise LimbeckError(
                f"the budget is ms a picture, above 0, not {self.latency_budget:g}: leave it away for {self.max_latency_ratio:g} times the "
                "student's latency"
            )

    def resolve_latency_budget(self, student_latency: float) -> float:
        """The budget in ms a picture, for a student of this latency.

        >>> SelectionRules().resolve_latency_budget(0.5), SelectionRules(latency_budget=8.0).resolve_latency_budget(0.5)
        (15.0, 8.0)
        """
        return self.max_latency_ratio * student_latency if self.latency_budget is None else self.latency_budget


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherStats:
    """What the rules look at, of one network; figures of quality are those of the validation part.

    Attributes:
        accuracy: a fraction; ``None`` where it is not known (a student that was not trained alone).
        ece: expected calibration error; ``None`` where it is not known.
        latency_ms: ms a picture.
        num_parameters: how many; ``None`` where it is not known (a teacher that only answers).
    """

    accuracy: float | None
    ece: float | None
    latency_ms: float
    num_parameters: int | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSimilarity:
    """How alike two teachers are: the share of samples with the same answer, and CKA (``None``: not known)."""

    first: str
    second: str
    agreement: float
    cka: float | None


def teacher_warnings(
    teachers: Mapping[str, TeacherStats], student: TeacherStats, *, similarities: Sequence[TeacherSimilarity] = (), rules: SelectionRules = SelectionRules(),
    with_assistants: Collection[str] = (),
) -> list[str]:  # fmt: skip
    """A sentence for each rule that these teachers break together, in the order of the teachers.

    Arguments:
        teachers: all that will teach.
        student: the student alone.
        similarities: of the teachers' pairs.
        rules: the numbers.
        with_assistants: those between whom and the student there are assistants, or whose training is stopped early: a large
            gap needs no word.

    >>> student = TeacherStats(accuracy=0.90, ece=0.02, latency_ms=0.1, num_parameters=1000)
    >>> big = TeacherStats(accuracy=0.92, ece=0.02, latency_ms=0.5, num_parameters=9000)
    >>> print(teacher_warnings({"big": big}, student)[0].split(":")[0])
    the teacher 'big' is too close to the student alone on validation
    """
    messages: list[str] = []
    for name, teacher in teachers.items():
        messages += _accuracy_warnings(name, teacher, student, rules)
        messages += _cost_warnings(name, teacher, student, rules, name in with_assistants)
    budget, total_latency = (
        rules.resolve_latency_budget(student.latency_ms),
        math.fsum(teacher.latency_ms for teacher in teachers.values()),
    )
    if total_latency > budget and all(teacher.latency_ms <= budget for teacher in teachers.values()):
        messages.append(
            f"the teachers are too slow together: {format_milliseconds(total_latency)} a picture, and the budget is "
            f"{_format_latency_budget(rules, student.latency_ms)}; leave one away, or choose some within it by limbeck select-teachers"
        )
    for pair in similarities:
        if is_too_similar(pair, rules):
            messages.append(
                f"the teachers {pair.first!r} and {pair.second!r} are too alike: they agree on {pair.agreement:.1%} of "
                f"the validation samples and their CKA is {pair.cka:.2f}; the second costs its time and adds little"
                .replace("%", " %")
            )  # fmt: skip
    return messages


def is_margin_too_small(margin: float, rules: SelectionRules) -> bool:
    """Whether a margin in points is below the rule.

    A hair's breadth is forgiven, since 0.85 − 0.80 is less than 0.05 in binary.

    >>> is_margin_too_small(100 * (0.85 - 0.80), SelectionRules()), is_margin_too_small(4.99, SelectionRules())
    (False, True)
    """
    return margin < rules.min_margin - 1e-9


def is_too_similar(pair: TeacherSimilarity, rules: SelectionRules) -> bool:
    """Whether both the answers and the features of two teachers are more alike than the rules allow."""
    return pair.agreement > rules.max_agreement and pair.cka is not None and pair.cka > rules.max_cka


def format_margin(margin: float, rules: SelectionRules) -> str:
    """A margin beside its rule, with as many digits as tell the two apart.

    >>> format_margin(1.31, SelectionRules()), format_margin(4.97, SelectionRules())
    ('+1.3 points, the rule is 5', '+4.97 points, the rule is 5')
    """
    digits = 2 if abs(margin - rules.min_margin) < 0.1 else 1
    return f"{margin:+.{digits}f} points, the rule is {rules.min_margin:g}"


def format_milliseconds(value: float) -> str:
    """A latency for people.

    >>> format_milliseconds(0.12345), format_milliseconds(1234.5)
    ('0.123 ms', '1234 ms')
    """
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"


def _accuracy_warnings(name: str, teacher: TeacherStats, student: TeacherStats, rules: SelectionRules) -> list[str]:
    messages = []
    if teacher.accuracy is not None and student.accuracy is not None:
        margin = 100 * (teacher.accuracy - student.accuracy)
        if margin <= 0:
            messages.append(
                f"the teacher {name!r} is {abs(margin):.1f} points below the student alone on validation: it has "
                "nothing to teach"
            )
        elif is_margin_too_small(margin, rules):
            messages.append(
                f"the teacher {name!r} is too close to the student alone on validation: {format_margin(margin, rules)}; it "
                "has little to teach"
            )
    if teacher.ece is not None and teacher.ece > rules.max_ece:
        messages.append(
            f"a hint: the teacher {name!r} is badly calibrated (ECE {teacher.ece:.2f} on validation): how sure it is "
            "says little, and another temperature may suit it better"
        )
    return messages


def _cost_warnings(
    name: str, teacher: TeacherStats, student: TeacherStats, rules: SelectionRules, has_assistants: bool
) -> list[str]:
    messages = []
    if teacher.latency_ms > rules.resolve_latency_budget(student.latency_ms):
        messages.append(
            f"the teacher {name!r} is too slow: {format_milliseconds(teacher.latency_ms)} a picture, and the budget is "
            f"{_format_latency_budget(rules, student.latency_ms)}; choose a smaller one, or one within it by limbeck select-teachers"
        )
    sizes = (teacher.num_parameters, student.num_parameters)
    if not has_assistants and sizes[0] and sizes[1] and sizes[0] > rules.max_parameter_ratio * sizes[1]:
        messages.append(
            f"the teacher {name!r} has {sizes[0] / sizes[1]:.0f} times the parameters of the "
            f"student, and from {rules.max_parameter_ratio:g} times on a nearer teacher often teaches better: put assistants between "
            "them (`assistants:` in the recipe), or stop its training early (`train_fraction:`)"
        )
    return messages


def _format_latency_budget(rules: SelectionRules, student_latency: float) -> str:
    text = format_milliseconds(rules.resolve_latency_budget(student_latency))
    return text if rules.latency_budget is not None else f"{text} ({rules.max_latency_ratio:g} times the student)"
