"""Knowledge of features: which places a channel is selective for (neuron selectivity transfer, NST).

Huang & Wang, 2017, https://arxiv.org/abs/1707.01219. Each channel of a sample, L2-normalised over the positions, is one
draw; the loss is the squared maximum mean discrepancy between the student's channels and the teacher's under the kernel
k(x, y) = (x · y)², the mean over pairs, then over the batch. Channels are a set: their number and order are free.

Well-known code multiplies every pair of channels elementwise, [channels, channels, positions] for each sample. With F
the normalised [channels, positions], the mean of (x · y)² over two sets is also the inner product of their FᵀF /
channels, so the loss is ‖FₛᵀFₛ/Cₛ − FₜᵀFₜ/Cₜ‖², with nothing larger than [positions, positions]; where there are many
more positions than channels, it is taken from the [channels, channels] products instead. Both are the same number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.losses._features import channels_first, match_size
from limbeck.losses._ops import widen

__all__ = ["Neuron", "neuron"]


def neuron(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared MMD of the two sets of channel maps under the squared dot product, mean over the batch.

    Shapes: ``[batch, channels, ...]`` with one or more axes of positions; channels may differ, and of two
    ``[batch, channels, height, width]`` the larger is average-pooled to the smaller. Zero where the channels are the
    same up to order and scale; from 0 to 2. The usual weight is 50.

    >>> import torch
    >>> neuron(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]]))
    tensor(2.)
    """
    student, teacher = match_size(widen(student), widen(teacher).detach())
    if student.ndim < 3 or student.shape[:1] + student.shape[2:] != teacher.shape[:1] + teacher.shape[2:]:
        raise LimbeckError(
            f"neuron selectivity compares maps [batch, channels, ...] over the same positions, and here are "
            f"{list(student.shape)} and {list(teacher.shape)}: tap layers whose batch and positions agree"
        )
    own, its = (F.normalize(features.flatten(2), dim=2) for features in (student, teacher))
    channels, others, positions = own.shape[1], its.shape[1], own.shape[2]
    if positions * (channels + others) <= channels**2 + others**2 + channels * others:
        total = (_moment(own) - _moment(its)).square().sum()
    else:
        total = _kernel(own, own) + _kernel(its, its) - 2 * _kernel(own, its)
    return total / max(len(student), 1)


@final
@dataclass(frozen=True, slots=True)
class Neuron:
    """:func:`neuron` between two tapped layers.

    Arguments:
        at: the name of the tap, given to the student and to the teacher alike.
        teacher: which teacher; ``None`` takes the combination of all.

    Nothing is learned: unequal channels are compared as they are.

    >>> from limbeck.testing import make_exchange
    >>> round(Neuron("mid")(make_exchange(teacher_taps={"mid": (12, 4, 4)})).item(), 4)
    0.2006
    """

    at: str
    teacher: str | None = None

    def __call__(self, exchange: Exchange) -> Tensor:
        student, teacher = exchange.pair(self.teacher)
        return neuron(channels_first(student.tap(self.at)), channels_first(teacher.tap(self.at)))


def _moment(maps: Tensor) -> Tensor:
    """FᵀF / channels, ``[batch, positions, positions]``."""
    return torch.bmm(maps.transpose(1, 2), maps) / maps.shape[1]


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    """Mean over pairs of channels of (x · y)², summed over the batch."""
    return torch.bmm(one, other.transpose(1, 2)).square().sum() / (one.shape[1] * other.shape[1])
