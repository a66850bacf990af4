"""GradNorm: weights by which all losses train at similar rates (Chen et al., ICML 2018).

https://arxiv.org/abs/1711.02257. With G_i = w_i·‖∇_W L_i‖ the gradient norm of a weighted loss at a shared weight W,
and r_i = (L_i / L_i of the first batch) / their mean, the target of G_i is mean(G)·r_i^α. Adam minimizes
Σ|G_i − mean(G)·r_i^α| with a constant target; then the weights are scaled to sum to the number of losses.

W is the last parameter of the student that every loss reaches, determined in the first batch. Each step has one
backward pass per loss down to W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from limbeck.core.errors import LimbeckError
from limbeck.losses._ops import require_interval
from limbeck.losses.weighting.loss_weighting import LossWeighting, require_unused
from limbeck.utils.all_gather import all_gather, get_world_size

_MIN_WEIGHT: Final = 1e-3


def gradnorm_gradient(weights: Tensor, norms: Tensor, rates: Tensor, *, alpha: float = 1.5) -> Tensor:
    """The gradient of Σ|G_i − mean(G)·r_i^α| in the weights, the target held constant.

    Shapes: all ``[losses]``: the weights w, the norms ‖∇_W L_i‖ of the unweighted losses, and L_i / L_i of the first
    batch. A loss without a gradient (a weight of 0, a batch without a label) is excluded.

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
class GradNorm(nn.Module, LossWeighting):
    """Weights by :func:`gradnorm_gradient`, updated after each training batch.

    Args:
        alpha: how much larger the gradients of losses that decreased less are; 0 makes all gradients equal.
        lr: learning rate of Adam for the weights.

    The weights of the objective are part of the losses. Several processes (DDP) use the mean gradient and the mean
    losses. FSDP is not supported, since parameters are sharded.
    """

    weight: Tensor
    initial_loss: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor

    def __init__(self, alpha: float = 1.5, *, lr: float = 0.025) -> None:
        super().__init__()
        require_interval("alpha", alpha, "[0, inf)")
        require_interval("lr", lr, "(0, inf)")
        self.alpha, self.lr = alpha, lr
        # In a tuple, so that nn.Module does not register the student.
        self._student: tuple[nn.Module, ...] = ()
        self._shared: tuple[nn.Parameter, ...] = ()

    def register_losses(self, names: Sequence[str]) -> None:
        require_unused(self, "weight")
        for name, start in (("weight", 1.0), ("initial_loss", 0.0), ("exp_avg", 0.0), ("exp_avg_sq", 0.0)):
            self.register_buffer(name, torch.full((len(names),), start))
        self.register_buffer("step", torch.zeros(()))

    def set_student(self, student: nn.Module) -> None:
        """Set the network whose parameters the losses share."""
        self._student, self._shared = (student,), ()

    def forward(self, values: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[dict[str, Tensor], Tensor]:
        """The weighted losses and the factors, from the weights before this batch."""
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
            # The norm of the mean gradient, which one process has for the whole batch.
            gradients = [all_gather(gradient[None]).mean(dim=0) for gradient in gradients]
            losses = all_gather(losses[None]).mean(dim=0)
        self._adam_step(torch.stack([gradient.norm() for gradient in gradients]), losses)

    @torch.no_grad()
    def _adam_step(self, norms: Tensor, losses: Tensor) -> None:
        # The first positive value, since the weight of a loss may start at 0.
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
            raise LimbeckError("GradNorm has no student: use it in a limbeck.Distiller, which calls set_student")
        weights = [weight for weight in self._student[0].parameters() if weight.requires_grad and weight.ndim > 1]
        reachable = set(range(len(weights)))
        for value in values:
            gradients: Sequence[Tensor | None] = [None] * len(weights)
            if value.requires_grad and weights:
                gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            reachable &= {i for i, gradient in enumerate(gradients) if gradient is not None}
        if not reachable:
            raise LimbeckError(
                "GradNorm needs a weight of the student that every loss reaches, and there is none: leave out losses "
                "that reach no trainable weight, or, under the strategy fsdp, use UncertaintyWeighting or "
                "LossRatioWeighting"
            )
        return weights[max(reachable)]

    def __repr__(self) -> str:
        return f"GradNorm(alpha={self.alpha}, lr={self.lr})"
