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
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from limbeck.core.errors import LimbeckError
from limbeck.utils.all_gather import all_gather, get_world_size

__all__ = ["GradNorm", "gradnorm_gradient"]

_MIN_WEIGHT: Final = 1e-3


def gradnorm_gradient(weights: Tensor, norms: Tensor, rates: Tensor, *, alpha: float = 1.5) -> Tensor:
    """The gradient of Σ|G_i − mean(G)·r_i^α| in the weights, the target held constant.

    Shapes: all ``[terms]``: the weights w, the norms ‖∇_W L_i‖ of the terms without them, and the rates
    L_i / L_i of the first batch, whose mean is taken out here. A term without any gradient (one whose weight is still
    0, a batch without a label) stands aside.

    >>> gradnorm_gradient(torch.tensor([1.0, 1.0]), torch.tensor([4.0, 1.0]), torch.tensor([1.0, 1.0]))
    tensor([ 4., -1.])
    """
    is_active = (norms > 0).to(norms)
    num_active = is_active.sum().clamp(min=1.0)
    scaled = weights * norms
    mean_rate = (rates * is_active).sum() / num_active
    target = scaled.sum() / num_active * (rates / mean_rate.clamp(min=torch.finfo(rates.dtype).tiny)) ** alpha
    return torch.sign(scaled - target) * norms


@final
class GradNorm(nn.Module):
    """Weights by :func:`gradnorm_gradient`, moved after each batch of training.

    Arguments:
        alpha: how strongly terms that fell less are favoured; 0 makes all gradients equal.
        lr: of the weights' own Adam.

    Weights given to the terms count as part of them. Several processes (DDP) take the norm of the mean gradient, and
    the mean losses. A student in shares (FSDP) has no whole weight to look at, and is refused.
    """

    weight: Tensor
    initial_loss: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor

    def __init__(self, alpha: float = 1.5, *, lr: float = 0.025) -> None:
        super().__init__()
        if alpha < 0 or not lr > 0:
            raise LimbeckError(f"GradNorm takes an alpha of 0 or more and an lr above 0, not {alpha} and {lr}")
        self.alpha, self.lr = alpha, lr
        # In a tuple, which nn.Module does not register: the student is not a part of its own balance.
        self._student: tuple[nn.Module, ...] = ()
        self._shared: tuple[nn.Parameter, ...] = ()

    def register_losses(self, names: Sequence[str]) -> None:
        """Begin with weights of 1."""
        if hasattr(self, "weight"):
            raise LimbeckError(
                "this GradNorm balances another objective already, and keeps state for it: give each its own"
            )
        for name, start in (("weight", 1.0), ("initial_loss", 0.0), ("exp_avg", 0.0), ("exp_avg_sq", 0.0)):
            self.register_buffer(name, torch.full((len(names),), start))
        self.register_buffer("step", torch.zeros(()))

    def set_student(self, student: nn.Module) -> None:
        """Be told whose weights the terms share."""
        self._student, self._shared = (student,), ()

    def forward(self, values: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[dict[str, Tensor], Tensor]:
        """The shares and the factors, by the weights as they were before this batch."""
        factors = self.weight.clone()
        weighted = {name: weights[name] * value for name, value in values.items()}
        if self.training and torch.is_grad_enabled():
            self._update(list(weighted.values()))
        return {name: factors[i] * loss for i, (name, loss) in enumerate(weighted.items())}, factors

    def _update(self, values: Sequence[Tensor]) -> None:
        if not self._shared:
            self._shared = (self._find_last_shared_weight(values),)
        gradients = [torch.autograd.grad(value, self._shared[0], retain_graph=True)[0].float() for value in values]
        losses = torch.stack([value.detach() for value in values]).float()
        if get_world_size() > 1:
            # The norm of the mean, not the mean of the norms: what one process has with all of the batch.
            gradients = [all_gather(gradient[None]).mean(dim=0) for gradient in gradients]
            losses = all_gather(losses[None]).mean(dim=0)
        self._adam_step(torch.stack([gradient.norm() for gradient in gradients]), losses)

    @torch.no_grad()
    def _adam_step(self, norms: Tensor, losses: Tensor) -> None:
        # The first loss of a term is the first that is one: a weight may be 0 for a while.
        self.initial_loss.copy_(torch.where((self.initial_loss == 0) & (losses > 0), losses, self.initial_loss))
        rates = torch.where(self.initial_loss > 0, losses.clamp(min=0.0) / self.initial_loss, 1.0)
        gradient = gradnorm_gradient(self.weight, norms, rates, alpha=self.alpha)
        # The functional form, since the state of an optimizer object follows neither the device nor the checkpoint.
        adam(
            [self.weight], [gradient], [self.exp_avg], [self.exp_avg_sq], [], [self.step], foreach=False,
            amsgrad=False, beta1=0.9, beta2=0.999, lr=self.lr, weight_decay=0.0, eps=1e-8, maximize=False,
        )  # fmt: skip
        self.weight.clamp_(min=_MIN_WEIGHT)
        self.weight.mul_(len(self.weight) / self.weight.sum())

    def _find_last_shared_weight(self, values: Sequence[Tensor]) -> nn.Parameter:
        if not self._student:
            raise LimbeckError("GradNorm was not told of a student: use it in a limbeck.Distiller, which tells it")
        weights = [weight for weight in self._student[0].parameters() if weight.requires_grad and weight.ndim > 1]
        reachable = set(range(len(weights)))
        for value in values:
            gradients: Sequence[Tensor | None] = [None] * len(weights)
            if value.requires_grad and weights:
                gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            reachable &= {i for i, gradient in enumerate(gradients) if gradient is not None}
        if not reachable:
            raise LimbeckError(
                "GradNorm needs a weight of the student that every term reaches, and there is none: leave out terms "
                "that reach no weight or frozen ones only, or, under the strategy fsdp, take UncertaintyWeighting or "
                "LossRatioWeighting"
            )
        return weights[max(reachable)]

    def __repr__(self) -> str:
        return f"GradNorm(alpha={self.alpha}, lr={self.lr})"
