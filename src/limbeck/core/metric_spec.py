"""What a metric is: its name, its unit, and which direction is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

from limbeck.core.errors import LimbeckError

__all__ = ["MetricSpec"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """A metric of a task, as records, verdicts, tables and plots show it.

    Args:
        name: key in ``record.json`` and, after ``val/``, in ``metrics.csv``: ``accuracy``, ``miou``, ``per``.
        label: name in reports, such as "Mean IoU".
        unit: unit of a value as shown: ``"%"``, ``"nats"``, ``"BLEU"``, ``""``. A metric in ``"%"`` is a fraction, and
            a difference of two is in points.
        higher_is_better: the direction; false for errors and losses.
        scale: factor of a value as shown; ``None``: 100 for ``"%"``, else 1.
        min_gap: smallest gap between teacher and baseline, in the metric's own scale, of which a recovered fraction is
            reported: the fraction of a smaller gap is mostly noise.
        digits: decimals of a value as shown.
        phrase: its name within a sentence; empty: the label.
        description: its definition in one sentence, for reports.

    >>> per = MetricSpec(name="per", label="Phoneme error rate", higher_is_better=False)
    >>> per.gain(0.38, 0.55), per.difference_unit, per.format(0.38)
    (17.0, 'points', '38.0 %')
    """

    name: str
    label: str
    unit: str = "%"
    higher_is_better: bool = True
    scale: float | None = None
    min_gap: float = 0.005
    digits: int = 1
    phrase: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise LimbeckError(f"the name of a metric must be letters, digits and _, got {self.name!r}")
        if self.display_scale <= 0 or self.min_gap < 0:
            raise LimbeckError(f"{self.name}: scale must be above 0 and min_gap at least 0, got {self}")

    @property
    def display_scale(self) -> float:
        """The factor of a value as shown."""
        return (100.0 if self.unit == "%" else 1.0) if self.scale is None else self.scale

    @property
    def sign(self) -> float:
        """1 where higher is better, else -1."""
        return 1.0 if self.higher_is_better else -1.0

    @property
    def difference_unit(self) -> str:
        """Unit of a difference of two values as shown."""
        return "points" if self.unit == "%" else self.unit

    def gain(self, value: float, reference: float) -> float:
        """How much better ``value`` is than ``reference``, in :attr:`difference_unit`; above zero is better."""
        return round(self.sign * self.display_scale * (value - reference), 10)

    def format(self, value: float | None) -> str:
        """``value`` as shown, with its unit; "–" where it is missing or not finite."""
        if value is None or not math.isfinite(value):
            return "–"
        number = f"{self.display_scale * value:.{self.digits}f}".replace("-", "−")
        return f"{number} {self.unit}".rstrip()

    @property
    def text(self) -> str:
        """The name within a sentence."""
        return self.phrase or self.label

    @property
    def heading(self) -> str:
        """:attr:`text` at the beginning of a line.

        >>> [MetricSpec(name="a", label="a", phrase=phrase).heading for phrase in ("phoneme error rate", "mAP at 0.5")]
        ['Phoneme error rate', 'mAP at 0.5']
        """
        is_word = self.text.split(" ")[0].islower()
        return self.text[:1].upper() + self.text[1:] if is_word else self.text

    def to_dict(self) -> dict[str, Any]:
        """The entry in ``metric_info`` of ``record.json``."""
        return {
            "label": self.label, "unit": self.unit, "higher_is_better": self.higher_is_better,
            "scale": self.display_scale, "min_gap": self.min_gap, "digits": self.digits, "phrase": self.phrase,
            "description": self.description,
        }  # fmt: skip
