"""Weights that let all terms learn at one rate (GradNorm; Chen et al., ICML 2018).

https://arxiv.org/abs/1711.02257. With G_i = w_i·‖∇_W L_i‖ the gradient of a weighted term at a weight W that all terms
share, and r_i = (L_i / L_i of the first batch) / their mean, the inverse rate of training, each G_i is to be
mean(G)·r_i^α. The weights go down the gradient of Σ|G_i − mean(G)·r_i^α|, the target held constant, by Adam, and are
then scaled so that they sum to the number of terms.

W is the last weight of the student, in the order of its parameters, that every term reaches; it is looked for once, in
the first batch. A step goes back from every term to W, so it costs more the further W is from the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.utils.all_gather import gather, world

__all__ = ["GradNorm", "gradnorm"]

_BETAS, _EPSILON, _LEAST = (0.9, 0.999), 1e-8, 1e-3


def gradnorm(weights: Tensor, norms: Tensor, rates: Tensor, *, alpha: float = 1.5) -> Tensor:
    """The gradient of Σ|G_i − mean(G)·r_i^α| in the weights, the target held constant.

    Shapes: all ``[terms]``: the weights w, the norms ‖∇_W L_i‖ of the terms without them, and the rates
    L_i / L_i of the first batch, whose mean is taken out here. A term without any gradient (one whose weight is still
    0, a batch without a label) stands aside.

    >>> gradnorm(torch.tensor([1.0, 1.0]), torch.tensor([4.0, 1.0]), torch.tensor([1.0, 1.0]))
    tensor([ 4., -1.])
    """
    there = (norms > 0).to(norms)
    many = there.sum().clamp(min=1.0)
    scaled = weights * norms
    rate = (rates * there).sum() / many
    target = scaled.sum() / many * (rates / rate.clamp(min=torch.finfo(rates.dtype).tiny)) ** alpha
    return torch.sign(scaled - target) * norms


@final
class GradNorm(nn.Module):
    """Weights by :func:`gradnorm`, moved after each batch of training.

    Arguments:
        alpha: how strongly terms that fell less are favoured; 0 makes all gradients equal.
        lr: of the weights' own Adam.

    Weights given to the terms count as part of them. Several processes (DDP) take the norm of the mean gradient, and
    the mean losses. A student in shares (FSDP) has no whole weight to look at, and is refused.
    """

    weight: Tensor
    first: Tensor
    moment: Tensor
    square: Tensor
    steps: Tensor

    def __init__(self, alpha: float = 1.5, *, lr: float = 0.025) -> None:
        super().__init__()
        if alpha < 0 or not lr > 0:
            raise LimbeckError(f"GradNorm takes an alpha of 0 or more and an lr above 0, not {alpha} and {lr}")
        self.alpha, self.lr = alpha, lr
        # In a tuple, which nn.Module does not register: the student is not a part of its own balance.
        self._student: tuple[nn.Module, ...] = ()
        self._shared: tuple[nn.Parameter, ...] = ()

    def bind(self, names: Sequence[str]) -> None:
        """Begin with weights of 1."""
        if hasattr(self, "weight"):
            raise LimbeckError(
                "this GradNorm balances another objective already, and keeps state for it: give each its own"
            )
        for name, start in (("weight", 1.0), ("first", 0.0), ("moment", 0.0), ("square", 0.0)):
            self.register_buffer(name, torch.full((len(names),), start))
        self.register_buffer("steps", torch.zeros(()))

    def watch(self, student: nn.Module) -> None:
        """Be told whose weights the terms share."""
        self._student, self._shared = (student,), ()

    def forward(self, values: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[dict[str, Tensor], Tensor]:
        """The shares and the factors, by the weights as they were before this batch."""
        factors = self.weight.clone()
        terms = {name: weights[name] * value for name, value in values.items()}
        if self.training and torch.is_grad_enabled():
            self._follow(list(terms.values()))
        return {name: factors[i] * term for i, (name, term) in enumerate(terms.items())}, factors

    def _follow(self, values: Sequence[Tensor]) -> None:
        if not self._shared:
            self._shared = (self._last_shared(values),)
        gradients = [torch.autograd.grad(value, self._shared[0], retain_graph=True)[0].float() for value in values]
        losses = torch.stack([value.detach() for value in values]).float()
        if world() > 1:
            # The norm of the mean, not the mean of the norms: what one process has with all of the batch.
            gradients = [gather(gradient[None]).mean(dim=0) for gradient in gradients]
            losses = gather(losses[None]).mean(dim=0)
        self._move(torch.stack([gradient.norm() for gradient in gradients]), losses)

    @torch.no_grad()
    def _move(self, norms: Tensor, losses: Tensor) -> None:
        # The first loss of a term is the first that is one: a weight may be 0 for a while.
        self.first.copy_(torch.where((self.first == 0) & (losses > 0), losses, self.first))
        rates = torch.where(self.first > 0, losses.clamp(min=0.0) / self.first, 1.0)
        gradient = gradnorm(self.weight, norms, rates, alpha=self.alpha)
        self.steps += 1
        self.moment.lerp_(gradient, 1 - _BETAS[0])
        self.square.lerp_(gradient.square(), 1 - _BETAS[1])
        mean, spread = (x / (1 - b**self.steps) for x, b in zip((self.moment, self.square), _BETAS, strict=True))
        moved = (self.weight - self.lr * mean / (spread.sqrt() + _EPSILON)).clamp(min=_LEAST)
        self.weight.copy_(moved * (len(moved) / moved.sum()))

    def _last_shared(self, values: Sequence[Tensor]) -> nn.Parameter:
        if not self._student:
            raise LimbeckError("GradNorm was not told of a student: use it in a limbeck.Distiller, which tells it")
        weights = [weight for weight in self._student[0].parameters() if weight.requires_grad and weight.ndim > 1]
        reached = set(range(len(weights)))
        for value in values:
            found: Sequence[Tensor | None] = [None] * len(weights)
            if value.requires_grad and weights:
                found = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            reached &= {i for i, gradient in enumerate(found) if gradient is not None}
        if not reached:
            raise LimbeckError(
                "GradNorm needs a weight of the student that every term reaches, and there is none: leave out terms "
                "that reach no weight or frozen ones only, or, under the strategy fsdp, take Uncertainty or LossRatio"
            )
        return weights[max(reached)]

    def __repr__(self) -> str:
        return f"GradNorm(alpha={self.alpha}, lr={self.lr})"
