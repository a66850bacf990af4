"""A temperature for each sample, by the uncertainty of the teacher or by a measured quality.

The temperature is linear between two values: a confident prediction needs a higher one to reveal the other classes. For
faces in the dark, τ = τ₀·(1 + k·(1 − quality)) is ``PerSample(score="quality", confident=τ₀, uncertain=τ₀·(1 + k))``.
Sample-wise temperatures: Li et al., AAAI 2023, https://arxiv.org/abs/2211.16231, who learn them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses._logits import require_temperature
from limbeck.losses.temperature.entropy import least_confidence, normalized_entropy
from limbeck.losses.temperature.policy import ScaledLogits

_TEACHER_SCORES = {"entropy": normalized_entropy, "confidence": least_confidence}


def per_sample_temperature(uncertainty: Tensor, *, confident: float = 6.0, uncertain: float = 3.0) -> Tensor:
    """The temperature of each row, ``[rows]``: ``confident`` where ``uncertainty`` is 0, ``uncertain`` where it is 1.

    >>> import torch
    >>> per_sample_temperature(torch.tensor([0.0, 0.5, 1.0]))
    tensor([6.0000, 4.5000, 3.0000])
    """
    return confident + (uncertain - confident) * uncertainty.clamp(0.0, 1.0)


@final
@dataclass(frozen=True, slots=True)
class PerSample:
    """:func:`per_sample_temperature`, by the teacher's prediction for each row or by a measured quality.

    Args:
        score: ``entropy`` of the teacher's softmax, normalized; ``confidence``, by its largest probability; or the
            name of a quality in 0..1, such as brightness, in ``by_row`` or ``by_sample`` of the student's outputs.
        confident: temperature at uncertainty 0, or quality 1.
        uncertain: temperature at uncertainty 1, or quality 0.
    """

    score: str = "entropy"
    confident: float = 6.0
    uncertain: float = 3.0

    def __post_init__(self) -> None:
        require_temperature(self.confident)
        require_temperature(self.uncertain)

    @property
    def uses_softmax(self) -> bool:
        """Whether the score is one of the teacher's softmax."""
        return self.score in _TEACHER_SCORES

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> ScaledLogits:
        uncertainty = self._uncertainty(student, teacher).detach()
        temperature = per_sample_temperature(uncertainty, confident=self.confident, uncertain=self.uncertain)
        return ScaledLogits(student.require_logits(), teacher.require_logits(), temperature)

    def bounds(self) -> tuple[float, float]:
        return min(self.confident, self.uncertain), max(self.confident, self.uncertain)

    def _uncertainty(self, student: Outputs, teacher: Outputs) -> Tensor:
        if self.score in _TEACHER_SCORES:
            return _TEACHER_SCORES[self.score](teacher.require_logits())
        measured = {**student.by_sample, **student.by_row}
        if self.score not in measured:
            allowed = [*_TEACHER_SCORES, *measured]
            raise LimbeckError(
                f"the score of PerSample is {self.score!r}; available: {suggest_names(self.score, allowed)}; add "
                "a quality of your own to by_row or by_sample of your task's outputs"
            )
        logits, quality = student.require_logits(), measured[self.score]
        if self.score not in student.by_row and student.row_to_sample is not None:
            quality = quality[student.row_to_sample]
        if quality.shape != logits.shape[:1]:
            raise LimbeckError(
                f"the quality {self.score!r} must be one number per row, [{len(logits)}], got {list(quality.shape)}"
            )
        return 1.0 - quality.to(logits.device).float()
