"""Knowledge of features: the teacher's early layers, learned from the student's later ones as well (knowledge review).

Chen et al., CVPR 2021, https://arxiv.org/abs/2104.09044. From the deepest stage to the shallowest, the student's map
goes through a 1×1 convolution to a common width and is fused with what the deeper stage handed down, by two attention
maps that a 1×1 convolution and a sigmoid make of both; a 3×3 convolution turns the result into the teacher's width at
that stage. The hierarchical context loss compares it with the teacher's map at full size and average-pooled to 4, 2 and
1, with the weights 1, ½, ¼, ⅛ divided by their sum, the mean squared difference each; the stages add up. A pooled size
that is not below the map's is left out, as in the published code.

That code resizes the student to the teacher's size, by the nearest neighbour; here the larger is average-pooled to the
smaller, as for every term on maps. The usual weight is 1 to 8, warmed up over 20 epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.losses._autograd import pooled
from limbeck.losses._features import match_size, normed, require_maps, shaped, step
from limbeck.losses._ops import require_same_shape, widen

__all__ = ["Review", "review"]

_LEVELS: Final = (4, 2, 1)


def review(students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
    """The hierarchical context loss of each stage, summed over stages.

    Shapes: for each stage, both ``[batch, channels, height, width]``, the student's already fused and of the teacher's
    width and size.

    >>> import torch
    >>> student, teacher = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.zeros(1, 1, 2, 2)
    >>> review([student], [teacher])  # (7.5 + 6.25 / 2) / (1 + 1 / 2)
    tensor(7.0833)
    """
    if len(students) != len(teachers) or not students:
        raise LimbeckError(
            f"knowledge review compares stage with stage, and here are {len(students)} of the student and "
            f"{len(teachers)} of the teacher: give as many of both"
        )
    return torch.stack([_stage(own, its) for own, its in zip(students, teachers, strict=True)]).sum()


@final
class Review(nn.Module):
    """:func:`review` between several tapped layers, the student's fused from deep to shallow by what the term learns.

    Arguments:
        at: the names of the taps from shallow to deep, given to the student and to the teacher alike; each reads a map,
            or an embedding ``[batch, width]``, which is a map of one position.
        width: channels in which stages are fused; ``None`` takes the student's at the deepest, up to 512.
        teacher: which teacher; ``None`` takes the combination of all.

    >>> from limbeck.testing import make_exchange
    >>> taps = {"early": (4, 8, 8), "late": (8, 4, 4)}
    >>> exchange, term = make_exchange(student_taps=taps, teacher_taps=taps), Review(["early", "late"])
    >>> term.prepare(exchange)
    >>> [fusion.told for fusion in term.fusions]
    ['4 → 4', '8 → 8']
    """

    def __init__(self, at: Sequence[str], *, width: int | None = None, teacher: str | None = None) -> None:
        super().__init__()
        if isinstance(at, str) or not at:
            raise LimbeckError(f"knowledge review reads several layers, a list of taps, and here at is {at!r}")
        if width is not None and width < 1:
            raise LimbeckError(f"stages are fused in one channel at least, and here width is {width}")
        self.at, self.width, self.teacher = tuple(at), width, teacher
        self.fusions: nn.ModuleList | None = None

    def prepare(self, exchange: Exchange) -> None:
        """Shape the fusions by the features of ``exchange``."""
        student, teacher = exchange.pair(self.teacher)
        own, its = ([_as_map(said.tap(name)) for name in self.at] for said in (student, teacher))
        for pair in zip(own, its, strict=True):
            require_maps(*pair, method="knowledge review")
        width = min(512, own[-1].shape[1]) if self.width is None else self.width
        deepest = len(own) - 1
        self.fusions = nn.ModuleList(
            _Fusion(*pair, width, handed=stage < deepest) for stage, pair in enumerate(zip(own, its, strict=True))
        )

    def forward(self, exchange: Exchange) -> Tensor:
        """The loss of this exchange."""
        fusions = shaped(self.fusions, "Review")
        student, teacher = exchange.pair(self.teacher)
        pairs: list[tuple[Tensor, Tensor]] = []
        handed: Tensor | None = None
        for name, fusion in reversed(list(zip(self.at, fusions, strict=True))):
            made, handed = fusion(widen(_as_map(student.tap(name))), handed)
            pairs.append(match_size(widen(made), widen(_as_map(teacher.tap(name)))))
        return review([own for own, _ in pairs], [its for _, its in pairs])

    def extra_repr(self) -> str:
        width = "" if self.width is None else f", width={self.width}"
        return f"at={list(self.at)}{width}" + (f", teacher={self.teacher!r}" if self.teacher else "")


@final
class _Fusion(nn.Module):
    """One stage: the student's map and what the deeper stage hands down, to the teacher's width; hands down its own."""

    def __init__(self, student: Tensor, teacher: Tensor, width: int, *, handed: bool) -> None:
        super().__init__()
        self.told = step(student, teacher)
        self.into = nn.Conv2d(student.shape[1], width, 1, bias=False)
        self.into_norm = nn.BatchNorm2d(width)
        self.attention = nn.Conv2d(2 * width, 2, 1) if handed else None
        self.out = nn.Conv2d(width, teacher.shape[1], 3, padding=1, bias=False)
        self.out_norm = nn.BatchNorm2d(teacher.shape[1])
        self.to(widen(student))

    def forward(self, features: Tensor, handed: Tensor | None) -> tuple[Tensor, Tensor]:
        fused = normed(self.into_norm, self.into(features.to(self.into.weight.dtype)))
        if self.attention is not None and handed is not None:
            handed = F.interpolate(handed, fused.shape[2:], mode="nearest")
            weights = self.attention(torch.cat([fused, handed], dim=1)).sigmoid()
            fused = fused * weights[:, :1] + handed * weights[:, 1:]
        return normed(self.out_norm, self.out(fused)), fused

    def extra_repr(self) -> str:
        return self.told


def _stage(student: Tensor, teacher: Tensor) -> Tensor:
    require_maps(student, teacher, method="knowledge review")
    require_same_shape(student, teacher, what="maps", hint="the class Review fuses and pools the student's first")
    # Pooling is linear, so the difference is pooled once in place of both maps.
    difference = widen(student) - widen(teacher).detach()
    if not difference.numel():
        return difference.sum()
    weight, weights, loss = 1.0, 1.0, difference.square().mean()
    for size in _LEVELS:
        if size < min(difference.shape[2:]):
            weight /= 2
            weights += weight
            loss = loss + weight * pooled(difference, (size, size)).square().mean()
    return loss / weights


def _as_map(features: Tensor) -> Tensor:
    """An embedding is a map of one position."""
    return features[:, :, None, None] if features.ndim == 2 else features
