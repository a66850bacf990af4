"""Loss weighting during training: uncertainty, GradNorm, fixed ratios of losses.

A weighting multiplies each weighted loss by a factor: Σ factor · weight · loss. It is an ``nn.Module`` of the
objective, so its parameters reach the optimizer and its state the checkpoint. Several processes use the losses of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.losses.weighting.gradnorm import GradNorm
from limbeck.utils.all_gather import all_gather, get_world_size

__all__ = [
    "GradNorm",
    "LossRatioWeighting",
    "LossWeighting",
    "UncertaintyWeighting",
    "loss_ratio_weights",
    "uncertainty_weighted",
]

_MAX_FACTOR = 1000.0


@runtime_checkable
class LossWeighting(Protocol):
    """Factors of the losses of an objective; an ``nn.Module`` as well."""

    def register_losses(self, names: Sequence[str]) -> None:
        """Initialize for these losses; called once, when the objective is built."""
        ...

    def __call__(self, values: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[dict[str, Tensor], Tensor]:
        """Each loss times its weight and factor, and the factors ``[losses]``."""
        ...


def uncertainty_weighted(values: Tensor, log_variance: Tensor) -> Tensor:
    """exp(−s)·L + s for each loss, with s its learned log-variance (Kendall, Gal & Cipolla, CVPR 2018).

    https://arxiv.org/abs/1705.07115. Shapes: both ``[losses]``. Least at s = log L, where the weight is 1/L.

    >>> uncertainty_weighted(torch.tensor([2.0, 0.5]), torch.tensor([0.0, 0.6931]))
    tensor([2.0000, 0.9431])
    """
    return torch.exp(-log_variance) * values + log_variance


def loss_ratio_weights(means: Tensor, *, reference: int = 0) -> Tensor:
    """Factors that scale losses of these means to the one at ``reference``, clamped to 1/1000..1000.

    Shapes: ``[losses]``. A mean of 0 is unknown and has the factor 1; all have where that of ``reference`` is
        unknown.

    >>> loss_ratio_weights(torch.tensor([2.0, 0.5, 8.0, 0.0]))
    tensor([1.0000, 4.0000, 0.2500, 1.0000])
    """
    is_known = (means > 0) & (means[reference] > 0)
    return torch.where(is_known, means[reference] / means, 1.0).clamp(1.0 / _MAX_FACTOR, _MAX_FACTOR)


@final
class UncertaintyWeighting(nn.Module):
    """:func:`uncertainty_weighted` of each loss: the weight exp(−s) is small where the loss is large.

    s is a parameter of the optimizer, initially 0 (a weight of 1), to which weight decay moves it. The weight is
    clamped to 1000. The weighted losses include s and can be negative.

    >>> weighting = UncertaintyWeighting()
    >>> weighting.register_losses(["target", "kd"])
    >>> losses, factors = weighting({"target": torch.tensor(2.0), "kd": torch.tensor(0.5)}, {"target": 1.0, "kd": 1.0})
    >>> float(sum(losses.values()).detach()), factors
    (2.5, tensor([1., 1.]))
    """

    log_variance: nn.Parameter

    def register_losses(self, names: Sequence[str]) -> None:
        """Create s for each loss."""
        _require_unused(self, "log_variance")
        self.log_variance = nn.Parameter(torch.zeros(len(names)))

    def forward(self, values: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[dict[str, Tensor], Tensor]:
        """The weighted losses plus s, and exp(−s)."""
        limit = float(torch.tensor(_MAX_FACTOR).log())
        s = self.log_variance.float().clamp(-limit, limit)
        weighted = {
            name: uncertainty_weighted(weights[name] * value, s[i]) for i, (name, value) in enumerate(values.items())
        }
        return weighted, torch.exp(-s).detach()

    def __repr__(self) -> str:
        return "UncertaintyWeighting()"


@final
class LossRatioWeighting(nn.Module):
    """:func:`loss_ratio_weights`: weights become ratios of losses.

    With weights ``{"target": 1, "kd": 9}``, ``kd`` is kept at nine times the loss of ``target``. Not from a
    paper. Dynamic weight averaging (Liu et al., CVPR 2019, https://arxiv.org/abs/1803.10704) uses ratios over time
    instead.

    Args:
        reference: the loss with the factor 1; ``None``: the first.
        decay: of the moving average of each loss.

    >>> weighting = LossRatioWeighting()
    >>> weighting.register_losses(["target", "kd"])
    >>> losses, factors = weighting({"target": torch.tensor(2.0), "kd": torch.tensor(0.5)}, {"target": 1.0, "kd": 9.0})
    >>> losses, factors
    ({'target': tensor(2.), 'kd': tensor(18.)}, tensor([1., 4.]))
    """

    mean: Tensor

    def __init__(self, reference: str | None = None, *, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise LimbeckError(f"the decay of LossRatioWeighting is from 0 to below 1, not {decay}")
        self.reference, self.decay, self._reference_index = reference, decay, 0

    def register_losses(self, names: Sequence[str]) -> None:
        """Find the reference loss, and initialize the means."""
        _require_unused(self, "mean")
        if self.reference is not None:
            if self.reference not in names:
                raise LimbeckError(
                    f"LossRatioWeighting measures by {self.reference!r}, and no term is; they are: "
                    f"{suggest_names(self.reference, names)}"
                )
            self._reference_index = list(names).index(self.reference)
        self.register_buffer("mean", torch.zeros(len(names)))

    def forward(self, values: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[dict[str, Tensor], Tensor]:
        """The weighted losses and the factors, from the means including this batch."""
        if self.training:
            self._update_mean(torch.stack([value.detach() for value in values.values()]).float())
        factors = loss_ratio_weights(self.mean.clone(), reference=self._reference_index)
        weighted = {name: factors[i] * weights[name] * value for i, (name, value) in enumerate(values.items())}
        return weighted, factors

    @torch.no_grad()
    def _update_mean(self, losses: Tensor) -> None:
        if get_world_size() > 1:
            losses = all_gather(losses[None]).mean(dim=0)
        losses = losses.to(self.mean)
        # A loss of 0 is, for example, that of a batch without labels.
        updated = torch.where(self.mean == 0, losses, self.decay * self.mean + (1 - self.decay) * losses)
        self.mean.copy_(torch.where(losses > 0, updated, self.mean))

    def __repr__(self) -> str:
        return f"LossRatioWeighting(reference={self.reference!r}, decay={self.decay})"


def _require_unused(weighting: nn.Module, attribute: str) -> None:
    if hasattr(weighting, attribute):
        raise LimbeckError(
            f"this {type(weighting).__name__} balances another objective already, and keeps state for it: give "
            "each its "
            "own"
        )
