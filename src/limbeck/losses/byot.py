"""Knowledge of the network's own depth: classifiers on its stages learn from the deepest one (BYOT).

Zhang et al., ICCV 2019, https://arxiv.org/abs/1905.08094. Each shallow classifier pays (1 − α) · CE +
α · τ² · KL(deepest ‖ itself) + β · ‖its feature − the deepest‖², with no gradient through what is the deepest's; α 0.1,
τ 3. Reference code sums the squared differences over the batch and weighs them by 1e−6; here it is the mean over all
elements, and β 0.07 is what that comes to for a batch of 128 and 512 channels. The cross-entropy of the deepest
classifier is ``CrossEntropy``, beside this. A head is one separable 3×3 convolution with BatchNorm, the mean over
places, and a linear layer: the paper's are deeper ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError, nearest
from limbeck.core.loss_context import Exchange
from limbeck.losses._features import match_size
from limbeck.losses._ops import mean_squared, require_same_shape, widen

__all__ = ["DeepToShallow", "deep_to_shallow"]

_UNLABELLED: Final = -100


def deep_to_shallow(
    heads: Sequence[Tensor], deepest: Tensor, target: Tensor, *, alpha: float = 0.1, tau: float = 3.0
) -> Tensor:
    """Sum over ``heads`` of (1 − ``alpha``) · CE(head) + ``alpha`` · tau² · KL(deepest ‖ head), means over rows.

    Shapes: each head and ``deepest`` ``[rows, classes]`` logits; ``target`` ``[rows]`` class numbers (−100: no label,
    then only the deepest is followed) or ``[rows, classes]`` probabilities. No gradient to ``deepest``; in nats.

    >>> head, deepest = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> deep_to_shallow([head], deepest, torch.tensor([0]), alpha=0.5, tau=1.0)
    tensor(0.2804)
    """
    if not 0 <= alpha <= 1:
        raise LimbeckError(f"alpha is the share of the deepest classifier, from 0 to 1, not {alpha}")
    if not 0 < tau < math.inf:
        raise LimbeckError(f"a temperature is a number above zero, and here it is {tau}")
    if not heads:
        raise LimbeckError("deep_to_shallow needs at least one shallow classifier")
    deepest = widen(deepest).detach()
    least = torch.finfo(deepest.dtype).min
    log_p = F.log_softmax(deepest / tau, dim=1).clamp(min=least)
    total = deepest.new_zeros(())
    for head in map(widen, heads):
        require_same_shape(head, deepest, what="logits", hint="each head has a row and the classes of the deepest one")
        log_q = F.log_softmax(head / tau, dim=1).clamp(min=least)
        soft = F.kl_div(log_q, log_p, reduction="sum", log_target=True) * (tau**2 / max(len(head), 1))
        total = total + (1 - alpha) * _truth(head, target) + alpha * soft
    return total


@final
class DeepToShallow(nn.Module):
    """:func:`deep_to_shallow` of learned heads on tapped stages, and how far their features are from the deepest's.

    Arguments:
        at: the taps of the student to put a head on, from shallow to deep.
        deepest: the tap of the student whose feature theirs come close to; ``None`` compares no features.
        alpha: the share of the deepest classifier beside the truth.
        tau: the temperature, above zero.
        beta: of the features: mean over all elements of the squared difference, maps average-pooled to one size.

    Taps give ``[batch, channels, height, width]``, ``[batch, tokens, width]`` or ``[batch, width]``. Once trained, each
    head is an early exit: :func:`limbeck.distiller.early_exits`.
    """

    def __init__(
        self, at: Sequence[str], *, deepest: str | None = None, alpha: float = 0.1, tau: float = 3.0,
        beta: float = 0.07,
    ) -> None:  # fmt: skip
        super().__init__()
        self.at = tuple(at)
        if isinstance(at, str) or not self.at or len(set(self.at)) < len(self.at):
            raise LimbeckError(f"`at` names the taps to put a head on, each once, and it is {at!r}")
        if not 0 <= alpha <= 1 or not 0 < tau < math.inf or not 0 <= beta < math.inf:
            raise LimbeckError(
                f"alpha is a share from 0 to 1, tau above zero and beta from zero, not {alpha}, {tau} and {beta}"
            )
        self.deepest, self.alpha, self.tau, self.beta = deepest, alpha, tau, beta
        self.heads = nn.ModuleList()

    def prepare(self, exchange: Exchange) -> None:
        """Shape a head for each tap."""
        student = exchange.student
        deep = None if self.deepest is None else student.tap(self.deepest)
        classes = student.rows().shape[1]
        self.heads = nn.ModuleList(_Head(student.tap(name), deep, classes) for name in self.at)

    def head(self, name: str) -> nn.Module:
        """The classifier on the tap ``name``: from its features to logits and its own feature."""
        if not len(self.heads):
            raise LimbeckError(
                "DeepToShallow has no heads yet: call distiller.prepare(batch) before building the optimizer"
            )
        if name not in self.at:
            raise LimbeckError(f"no head stands on {name!r}; there are: {nearest(name, self.at)}")
        return self.heads[self.at.index(name)]

    def forward(self, exchange: Exchange) -> Tensor:
        """The loss of this exchange."""
        student = exchange.student
        found = [self.head(name)(student.tap(name)) for name in self.at]
        loss = deep_to_shallow(
            [logits for logits, _ in found], student.rows(), exchange.truth(), alpha=self.alpha, tau=self.tau
        )
        if self.deepest is None or not self.beta:
            return loss
        deep = widen(student.tap(self.deepest)).detach()
        return loss + self.beta * sum(mean_squared(*match_size(widen(feature), deep)) for _, feature in found)

    def extra_repr(self) -> str:
        return f"at={self.at}, deepest={self.deepest!r}, alpha={self.alpha}, tau={self.tau}, beta={self.beta}"


@final
class _Head(nn.Module):
    """A feature of the deepest one's width (its own where there is none), the mean over places, and a linear layer."""

    def __init__(self, features: Tensor, deep: Tensor | None, classes: int) -> None:
        super().__init__()
        if features.ndim not in (2, 3, 4) or (deep is not None and deep.ndim != features.ndim):
            others = "" if deep is None else f", and the deepest {list(deep.shape)}"
            raise LimbeckError(
                "a head stands on [batch, channels, height, width], [batch, tokens, width] or [batch, width], and this "
                f"tap gives {list(features.shape)}{others}: tap layers of one rank"
            )
        axis = 1 if features.ndim == 4 else -1
        before, width = features.shape[axis], (features if deep is None else deep).shape[axis]
        self.widths = (before, width, classes)
        body: list[nn.Module] = (
            # Apart by channel and then across, since an exit is to cost less than what it leaves out.
            [
                nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False),
                nn.Conv2d(before, width, 1, bias=False),
                nn.BatchNorm2d(width),
            ]
            if features.ndim == 4
            else [nn.Linear(before, width)]
        )
        self.body = nn.Sequential(*body, nn.ReLU()).to(widen(features))
        self.classifier = nn.Linear(width, classes).to(widen(features))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[batch, classes]``, and the feature they were read from."""
        feature: Tensor = self.body(features.to(self.classifier.weight.dtype))
        mean = feature.mean(dim=(2, 3)) if feature.ndim == 4 else feature.mean(dim=1) if feature.ndim == 3 else feature
        return self.classifier(mean), feature

    def extra_repr(self) -> str:
        return " → ".join(map(str, self.widths))


def _truth(student: Tensor, target: Tensor) -> Tensor:
    """Mean over the labelled rows of −log q(target)."""
    if target.ndim == 1:
        total = F.cross_entropy(student, target.long(), ignore_index=_UNLABELLED, reduction="sum")
        return total / (target != _UNLABELLED).sum().clamp(min=1)
    log_q = F.log_softmax(student, dim=1).masked_fill(target == 0, 0.0)
    return -(target.to(student) * log_q).sum() / (target != 0).any(dim=1).sum().clamp(min=1)
