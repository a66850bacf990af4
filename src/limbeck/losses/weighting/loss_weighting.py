"""Weights that find themselves while training: uncertainty, equal rates of learning, fixed ratios of the losses.

A balance multiplies each term, with the weight it was given, by a factor of its own: Σ factor · weight · term. It is an
``nn.Module`` of the objective, so what it learns reaches the optimizer, and its state the checkpoint. Several processes
look at the losses of all, and so keep the same weights.
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
    """What moves the weights of an objective; an ``nn.Module`` as well."""

    def register_losses(self, names: Sequence[str]) -> None:
        """Be told the terms' names, once, when the objective is built."""
        ...

    def __call__(self, values: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[dict[str, Tensor], Tensor]:
        """Each term's share of the loss, from its value and the weight it was given, and the factors ``[terms]``."""
        ...


def uncertainty_weighted(values: Tensor, log_variance: Tensor) -> Tensor:
    """exp(−s)·L + s for each loss, with s its learned log-variance (Kendall, Gal & Cipolla, CVPR 2018).

    https://arxiv.org/abs/1705.07115. Shapes: both ``[terms]``. Least at s = log L, where the weight is 1/L.

    >>> uncertainty_weighted(torch.tensor([2.0, 0.5]), torch.tensor([0.0, 0.6931]))
    tensor([2.0000, 0.9431])
    """
    return torch.exp(-log_variance) * values + log_variance


def loss_ratio_weights(means: Tensor, *, reference: int = 0) -> Tensor:
    """The factors by which losses of these means all become as large as the one at ``reference``, at most 1000 to one.

    Shapes: ``[terms]``. A mean of 0 is one that is not known: its factor is 1, and so are all where that of
        ``reference`` is.

    >>> loss_ratio_weights(torch.tensor([2.0, 0.5, 8.0, 0.0]))
    tensor([1.0000, 4.0000, 0.2500, 1.0000])
    """
    is_known = (means > 0) & (means[reference] > 0)
    return torch.where(is_known, means[reference] / means, 1.0).clamp(1.0 / _MAX_FACTOR, _MAX_FACTOR)


@final
class UncertaintyWeighting(nn.Module):
    """:func:`uncertainty_weighted` of each term: the weight exp(−s) falls where the loss stays large.

    s is a parameter, trained with the student by the same optimizer, and begins at 0, a weight of 1. Weight decay pulls
    it back there. A loss that goes to zero would take its weight to infinity: it stays below 1000. The shares of the
    loss contain s, so they can be negative.

    >>> balance = UncertaintyWeighting()
    >>> balance.register_losses(["target", "kd"])
    >>> parts, factors = balance({"target": torch.tensor(2.0), "kd": torch.tensor(0.5)}, {"target": 1.0, "kd": 1.0})
    >>> float(sum(parts.values()).detach()), factors
    (2.5, tensor([1., 1.]))
    """

    log_variance: nn.Parameter

    def register_losses(self, names: Sequence[str]) -> None:
        """Make an s for each term."""
        _require_unused(self, "log_variance")
        self.log_variance = nn.Parameter(torch.zeros(len(names)))

    def forward(self, values: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[dict[str, Tensor], Tensor]:
        """The shares, which contain s, and exp(−s)."""
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
    """:func:`loss_ratio_weights`: weights become ratios of losses, whatever the size of the terms.

    With weights ``{"target": 1, "kd": 9}``, ``kd`` is kept at nine times the loss of ``target``. No paper's: it is
    the plain answer to "which weight", where only the ratio was decided. Dynamic weight averaging (Liu et al., CVPR
    2019, https://arxiv.org/abs/1803.10704), also called by loss ratios, follows how fast losses fall instead.

    Arguments:
        reference: the term whose loss is the measure; ``None``: the first.
        decay: of the running mean over batches of each loss.

    >>> balance = LossRatioWeighting()
    >>> balance.register_losses(["target", "kd"])
    >>> parts, factors = balance({"target": torch.tensor(2.0), "kd": torch.tensor(0.5)}, {"target": 1.0, "kd": 9.0})
    >>> parts, factors
    ({'target': tensor(2.), 'kd': tensor(18.)}, tensor([1., 4.]))
    """

    mean: Tensor

    def __init__(self, reference: str | None = None, *, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise LimbeckError(f"the decay of LossRatioWeighting is from 0 to below 1, not {decay}")
        self.reference, self.decay, self._reference_index = reference, decay, 0

    def register_losses(self, names: Sequence[str]) -> None:
        """Find the measure among the terms, and begin with no mean."""
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
        """The shares and the factors, by the means with this batch in them."""
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
        # A loss of 0 is that of a batch without a label, say, and tells nothing of the term's size.
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
