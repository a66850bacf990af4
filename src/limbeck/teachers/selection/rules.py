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

__all__ = ["Facts", "Likeness", "Rules", "against", "milliseconds", "too_alike", "too_close", "warnings"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The numbers that teachers are judged by.

    Attributes:
        margin: points of accuracy by which a teacher is to be better than the student alone.
        budget: ms a picture for all teachers together; ``None``: ``times`` the latency of the student.
        times: see ``budget``. A training step costs a student about three forward passes, so at 30 an epoch without a
            cache takes some ten times as long as without teachers.
        agreement: two teachers are too alike if they give the same answer to more than this share of the samples …
        cka: … and their features are this alike as well. One alone means little: two very different teachers that are
            right on 99 % agree on 98 %.
        ece: a calibration error above this is worth a hint.
        ratio: parameters of a teacher over those of the student, above which the gap in capacity is large.
    """

    margin: float = 5.0
    budget: float | None = None
    times: float = 30.0
    agreement: float = 0.98
    cka: float = 0.95
    ece: float = 0.1
    ratio: float = 20.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.margin) or self.margin < 0:
            raise LimbeckError(f"the margin is points of accuracy, 0 or more, not {self.margin:g}: leave it away for 5")
        if self.budget is not None and not (math.isfinite(self.budget) and self.budget > 0):
            raise LimbeckError(
                f"the budget is ms a picture, above 0, not {self.budget:g}: leave it away for {self.times:g} times the "
                "student's latency"
            )

    def allowed(self, student: float) -> float:
        """The budget in ms a picture, for a student of this latency.

        >>> Rules().allowed(0.5), Rules(budget=8.0).allowed(0.5)
        (15.0, 8.0)
        """
        return self.times * student if self.budget is None else self.budget


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the rules look at, of one network; figures of quality are those of the validation part.

    Attributes:
        accuracy: a fraction; ``None`` where it is not known (a student that was not trained alone).
        ece: expected calibration error; ``None`` where it is not known.
        latency: ms a picture.
        parameters: how many; ``None`` where it is not known (a teacher that only answers).
    """

    accuracy: float | None
    ece: float | None
    latency: float
    parameters: int | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How alike two teachers are: the share of samples with the same answer, and CKA (``None``: not known)."""

    first: str
    second: str
    agreement: float
    cka: float | None


def warnings(
    teachers: Mapping[str, Facts], student: Facts, *, likeness: Sequence[Likeness] = (), rules: Rules = Rules(),
    bridged: Collection[str] = (),
) -> list[str]:  # fmt: skip
    """A sentence for each rule that these teachers break together, in the order of the teachers.

    Arguments:
        teachers: all that will teach.
        student: the student alone.
        likeness: of the teachers' pairs.
        rules: the numbers.
        bridged: those between whom and the student there are assistants, or whose training is stopped early: a large
            gap needs no word.

    >>> student = Facts(accuracy=0.90, ece=0.02, latency=0.1, parameters=1000)
    >>> big = Facts(accuracy=0.92, ece=0.02, latency=0.5, parameters=9000)
    >>> print(warnings({"big": big}, student)[0].split(":")[0])
    the teacher 'big' is too close to the student alone on validation
    """
    found: list[str] = []
    for name, teacher in teachers.items():
        found += _quality(name, teacher, student, rules)
        found += _size(name, teacher, student, rules, name in bridged)
    allowed, total = rules.allowed(student.latency), math.fsum(teacher.latency for teacher in teachers.values())
    if total > allowed and all(teacher.latency <= allowed for teacher in teachers.values()):
        found.append(
            f"the teachers are too slow together: {milliseconds(total)} a picture, and the budget is "
            f"{_budget(rules, student.latency)}; leave one away, or choose some within it by limbeck teachers"
        )
    for pair in likeness:
        if too_alike(pair, rules):
            found.append(
                f"the teachers {pair.first!r} and {pair.second!r} are too alike: they agree on {pair.agreement:.1%} of "
                f"the validation samples and their CKA is {pair.cka:.2f}; the second costs its time and adds little"
                .replace("%", " %")
            )  # fmt: skip
    return found


def too_close(margin: float, rules: Rules) -> bool:
    """Whether a margin in points is below the rule.

    A hair's breadth is forgiven, since 0.85 − 0.80 is less than 0.05 in binary.

    >>> too_close(100 * (0.85 - 0.80), Rules()), too_close(4.99, Rules())
    (False, True)
    """
    return margin < rules.margin - 1e-9


def too_alike(pair: Likeness, rules: Rules) -> bool:
    """Whether both the answers and the features of two teachers are more alike than the rules allow."""
    return pair.agreement > rules.agreement and pair.cka is not None and pair.cka > rules.cka


def against(margin: float, rules: Rules) -> str:
    """A margin beside its rule, with as many digits as tell the two apart.

    >>> against(1.31, Rules()), against(4.97, Rules())
    ('+1.3 points, the rule is 5', '+4.97 points, the rule is 5')
    """
    digits = 2 if abs(margin - rules.margin) < 0.1 else 1
    return f"{margin:+.{digits}f} points, the rule is {rules.margin:g}"


def milliseconds(value: float) -> str:
    """A latency for people.

    >>> milliseconds(0.12345), milliseconds(1234.5)
    ('0.123 ms', '1234 ms')
    """
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"


def _quality(name: str, teacher: Facts, student: Facts, rules: Rules) -> list[str]:
    found = []
    if teacher.accuracy is not None and student.accuracy is not None:
        margin = 100 * (teacher.accuracy - student.accuracy)
        if margin <= 0:
            found.append(
                f"the teacher {name!r} is {abs(margin):.1f} points below the student alone on validation: it has "
                "nothing to teach"
            )
        elif too_close(margin, rules):
            found.append(
                f"the teacher {name!r} is too close to the student alone on validation: {against(margin, rules)}; it "
                "has little to teach"
            )
    if teacher.ece is not None and teacher.ece > rules.ece:
        found.append(
            f"a hint: the teacher {name!r} is badly calibrated (ECE {teacher.ece:.2f} on validation): how sure it is "
            "says little, and another tau may suit it better"
        )
    return found


def _size(name: str, teacher: Facts, student: Facts, rules: Rules, near: bool) -> list[str]:
    found = []
    if teacher.latency > rules.allowed(student.latency):
        found.append(
            f"the teacher {name!r} is too slow: {milliseconds(teacher.latency)} a picture, and the budget is "
            f"{_budget(rules, student.latency)}; choose a smaller one, or one within it by limbeck teachers"
        )
    sizes = (teacher.parameters, student.parameters)
    if not near and sizes[0] and sizes[1] and sizes[0] > rules.ratio * sizes[1]:
        found.append(
            f"the teacher {name!r} has {sizes[0] / sizes[1]:.0f} times the parameters of the "
            f"student, and from {rules.ratio:g} times on a nearer teacher often teaches better: put assistants between "
            "them (`assistants:` in the recipe), or stop its training early (`stop:`)"
        )
    return found


def _budget(rules: Rules, student: float) -> str:
    said = milliseconds(rules.allowed(student))
    return said if rules.budget is not None else f"{said} ({rules.times:g} times the student)"
