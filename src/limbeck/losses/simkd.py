"""Knowledge of features for a classifier that is the teacher's own (SimKD).

Chen et al., CVPR 2022, https://arxiv.org/abs/2203.14001. The student learns no classifier: its last features, through
a projector, come close to the teacher's, in mean squared error, and at inference the teacher's classifier stands on
them. The projector is the paper's: 1×1, 3×3 and 1×1 convolutions, each with BatchNorm and ReLU, whose inner width is
the teacher's divided by ``factor``. It ends in a ReLU, so the teacher's features should as well.

What is deployed is student, projector and the teacher's classifier: the projector's parameters and time belong to the
cost of the student. How many parameters it has is in the term's repr.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from itertools import pairwise
from typing import final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.losses._features import match_size
from limbeck.losses._ops import mean_squared, require_same_shape, widen

__all__ = ["SimKD", "simkd"]


def simkd(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all elements of (student − teacher)², the larger map average-pooled to the smaller.

    Shapes: ``[batch, channels, height, width]`` or ``[batch, width]``, the student's already projected to the teacher's
    channels. Zero where they agree.

    >>> import torch
    >>> simkd(torch.ones(1, 1, 2, 2), torch.tensor([[[[3.0]]]]))
    tensor(4.)
    """
    student, teacher = match_size(widen(student), widen(teacher).detach())
    require_same_shape(student, teacher, what="features", hint="the class SimKD projects them and pools unequal maps")
    return mean_squared(student, teacher)


@final
class SimKD(nn.Module):
    """:func:`simkd` between two tapped layers, the student's through a projector that is kept for inference.

    Arguments:
        at: the name of the tap, given to the student and to the teacher alike: the last features before the
            teacher's classifier, ``[batch, channels, height, width]`` before its pooling, or ``[batch, width]``.
        factor: how much narrower the projector is inside than the teacher's features.
        teacher: which teacher; ``None`` takes the combination of all.

    The student's own classifier learns nothing from this term. :meth:`head` gives what stands in its place; what
    ``limbeck.fit`` validates and gives back, and a run measures, keeps and exports, has it there already
    (``limbeck.distiller.deployment``).
    """

    def __init__(self, at: str, *, factor: int = 2, teacher: str | None = None) -> None:
        super().__init__()
        if factor < 1:
            raise LimbeckError(f"the inner width of a projector is the teacher's divided by at least 1, not {factor}")
        self.at, self.factor, self.teacher = at, factor, teacher
        self.projector: _Projector | None = None

    def prepare(self, exchange: Exchange) -> None:
        """Shape the projector by the features of ``exchange``."""
        student, teacher = (outputs.tap(self.at) for outputs in exchange.pair(self.teacher))
        if student.ndim != teacher.ndim or student.ndim not in (2, 4):
            raise LimbeckError(
                f"SimKD compares maps [batch, channels, height, width] or vectors [batch, width], and these have the "
                f"shapes {list(student.shape)} and {list(teacher.shape)}: tap the last layer before the pooling"
            )
        inner = max(teacher.shape[1] // self.factor, 1)
        widths = (student.shape[1], inner, inner, teacher.shape[1])
        layers = _blocks(widths, (1, 3, 1)) if student.ndim == 4 else _vectors(widths[:2] + widths[3:])
        self.projector = _Projector(*layers).to(widen(student))

    def forward(self, exchange: Exchange) -> Tensor:
        """The loss of this exchange."""
        projector = self._prepared()
        student, teacher = (outputs.tap(self.at) for outputs in exchange.pair(self.teacher))
        if not len(student):  # BatchNorm takes no empty batch; each parameter still gets its gradient of zero
            return sum((parameter.sum() * 0 for parameter in projector.parameters()), widen(student).sum())
        if self.training and student.numel() == student.shape[1]:
            raise LimbeckError(
                f"the projector of SimKD normalises over the batch, and features of shape {list(student.shape)} have "
                "one value a channel: give batches of at least 2 samples"
            )
        return simkd(projector(student.to(next(projector.parameters()).dtype)), teacher)

    def head(self, classifier: nn.Module) -> nn.Sequential:
        """What follows the student's tapped layer at inference: this projector, pooling, and a copy of ``classifier``.

        Give the teacher's last layer, which takes ``[batch, channels]``. The projector is this term's own, not a copy:
        copy the head before training goes on. Count it when the student's cost is told.
        """
        projector = self._prepared()
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(1)] if isinstance(projector[0], nn.Conv2d) else []
        parts = OrderedDict(projector=projector, pool=nn.Sequential(*pool), classifier=deepcopy(classifier))
        return nn.Sequential(parts)

    def extra_repr(self) -> str:
        return f"at={self.at!r}, factor={self.factor}" + (f", teacher={self.teacher!r}" if self.teacher else "")

    def _prepared(self) -> _Projector:
        if self.projector is None:
            raise LimbeckError(
                "SimKD has no projector yet: call distiller.prepare(batch) before building the optimizer"
            )
        return self.projector


@final
class _Projector(nn.Sequential):
    """The layers between the student's features and the teacher's, which tell what they cost."""

    def extra_repr(self) -> str:
        return f"{sum(p.numel() for p in self.parameters())} parameters, deployed with the student"


def _blocks(widths: tuple[int, ...], kernels: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for (before, after), kernel in zip(pairwise(widths), kernels, strict=True):
        layers += [nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return layers


def _vectors(widths: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    return layers
