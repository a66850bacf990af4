"""A temperature for each network and sample, by how large its logits are (dynamic temperature, DTKD; Wei & Bai, 2024).

https://arxiv.org/abs/2404.12711. With m_s and m_t the largest logits of a row, τ_s = 2τ·m_s / (m_s + m_t) and
τ_t = 2τ·m_t / (m_s + m_t): both networks come down to the same largest logit, and their temperatures to the mean τ. The
loss is taken times τ_s·τ_t. The paper's largest logit changes when a constant is added to a row, and its softmax does
not; here it is that of z − mean, so the temperatures are as free of the constant as the answer is. They are constants
to the gradient. This is the paper's temperature; the non-target part that its loss adds is a term of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses._logits import require_temperature
from limbeck.losses._ops import widen
from limbeck.losses.temperature.entropy import possible
from limbeck.losses.temperature.policy import Tempered

__all__ = ["Dynamic", "dynamic"]

_FLAT = 1e-6


def dynamic(student: Tensor, teacher: Tensor, *, tau: float = 4.0) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's temperature of each row, both ``[rows]``; their mean is ``tau``.

    Shapes: both ``[rows, classes]``. A row of equal logits counts as one whose largest is 1e−6 above its mean.

    >>> import torch
    >>> dynamic(torch.tensor([[1.0, -1.0]]), torch.tensor([[8.0, 2.0]]), tau=4.0)
    (tensor([2.]), tensor([6.]))
    """
    mine, its = _peak(student), _peak(teacher)
    together = mine + its
    return 2.0 * tau * mine / together, 2.0 * tau * its / together


@final
@dataclass(frozen=True, slots=True)
class Dynamic:
    """:func:`dynamic` temperatures around ``tau``, above zero.

    What is logged as τ is √(τ_s·τ_t), whose square the loss is multiplied by.

    >>> import torch
    >>> student, teacher = Outputs(logits=torch.tensor([[1.0, -1.0]])), Outputs(logits=torch.tensor([[9.0, -9.0]]))
    >>> found = Dynamic(tau=5.0)(student, teacher, Progress())
    >>> found.tau, found.student / found.tau[:, None], found.teacher / found.tau[:, None]
    (tensor([3.]), tensor([[ 1., -1.]]), tensor([[ 1., -1.]]))
    """

    tau: float = 4.0

    def __post_init__(self) -> None:
        require_temperature(self.tau)

    def __call__(self, student: Outputs, teacher: Outputs, progress: Progress) -> Tempered:
        mine, its = widen(student.rows()), widen(teacher.rows())
        own, other = dynamic(mine.detach(), its.detach(), tau=self.tau)
        tau = (own * other).sqrt()
        return Tempered(mine * (tau / own)[:, None], its * (tau / other)[:, None], tau)

    def bounds(self) -> tuple[float, float]:
        """Above zero and up to ``tau``: the geometric mean of two temperatures of this mean."""
        return 0.0, self.tau


def _peak(logits: Tensor) -> Tensor:
    """How far the largest logit of each row is above the mean of the possible ones."""
    logits = widen(logits)
    there = possible(logits)
    mean = logits.masked_fill(~there, 0.0).sum(dim=1) / there.sum(dim=1).clamp(min=1)
    return (logits.amax(dim=1) - mean).clamp(min=_FLAT)
