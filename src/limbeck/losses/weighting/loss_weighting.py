"""Loss weighting during training: uncertainty, fixed ratios of losses.

A weighting multiplies each weighted loss by a factor: Σ factor · weight · loss. It is an ``nn.Module`` of the
objective, so its parameters reach the optimizer and its state the checkpoint. Several processes use the losses of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.losses._ops import require_interval
from limbeck.utils.all_gather import all_gather, get_world_size

_MAX_FACTOR = 1000.0


class LossWeighting(Protocol):
    """Factors of the losses of an objective; inherit from it and from ``nn.Module``."""

    def register_losses(self, names: Sequence[str]) -> None:
        """Initialize for these losses; called once, when the objective is built."""
        ...

    def set_student(self, student: nn.Module) -> None:
        """Set the network whose parameters the losses share; nothing by default."""
        return

    def __call__(self, values: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[dict[str, Tensor], Tensor]:
        """Each loss times its weight and factor, and the factors ``[losses]``."""
        ...


@final
class UncertaintyWeighting(nn.Module, LossWeighting):
    """exp(−s)·L + s for each loss, with s its learned log-variance (Kendall, Gal & Cipolla, CVPR 2018).

    https://arxiv.org/abs/1705.07115. Least at s = log L, where the weight is 1/L. s is a parameter of the optimizer,
    initially 0 (a weight of 1), to which weight decay moves it. The weight is clamped to 1000. The weighted losses
    include s and can be negative.

    >>> weighting = UncertaintyWeighting()
    >>> weighting.register_losses(["target", "kd"])
    >>> losses, factors = weighting({"target": torch.tensor(2.0), "kd": torch.tensor(0.5)}, {"target": 1.0, "kd": 1.0})
    >>> float(sum(losses.values()).detach()), factors
    (2.5, tensor([1., 1.]))
    """

    log_variance: nn.Parameter

    def register_losses(self, names: Sequence[str]) -> None:
        require_unused(self, "log_variance")
        self.log_variance = nn.Parameter(torch.zeros(len(names)))

    def forward(self, values: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[dict[str, Tensor], Tensor]:
        """The weighted losses plus s, and exp(−s)."""
        limit = float(torch.tensor(_MAX_FACTOR).log())
        s = self.log_variance.float().clamp(-limit, limit)
        factors = torch.exp(-s)
        weighted = {name: factors[i] * (weights[name] * value) + s[i] for i, (name, value) in enumerate(values.items())}
        return weighted, factors.detach()

    def __repr__(self) -> str:
        return "UncertaintyWeighting()"


@final
class LossRatioWeighting(nn.Module, LossWeighting):
    """Scales each loss to the running mean of a reference loss, so that weights become ratios of losses.

    With weights ``{"target": 1, "kd": 9}``, ``kd`` is kept at nine times the loss of ``target``. Factors are clamped to
    1/1000..1000, and 1 where a mean is still 0. Not from a paper; dynamic weight averaging (Liu et al., CVPR 2019,
    https://arxiv.org/abs/1803.10704) uses ratios over time instead.

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
        require_interval("decay", decay, "[0, 1)")
        self.reference, self.decay, self._reference_index = reference, decay, 0

    def register_losses(self, names: Sequence[str]) -> None:
        """Find the reference loss, and initialize the means."""
        require_unused(self, "mean")
        if self.reference is not None:
            if self.reference not in names:
                raise LimbeckError(
                    f"the reference of LossRatioWeighting must be a loss, got {self.reference!r}; available: "
                    f"{suggest_names(self.reference, names)}"
                )
            self._reference_index = list(names).index(self.reference)
        self.register_buffer("mean", torch.zeros(len(names)))

    def forward(self, values: Mapping[str, Tensor], weights: Mapping[str, float]) -> tuple[dict[str, Tensor], Tensor]:
        """The weighted losses and the factors, from the means including this batch."""
        if self.training:
            self._update_mean(torch.stack([value.detach() for value in values.values()]).float())
        means, reference = self.mean.clone(), self.mean[self._reference_index].clone()
        factors = torch.where((means > 0) & (reference > 0), reference / means, 1.0)
        factors = factors.clamp(1.0 / _MAX_FACTOR, _MAX_FACTOR)
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


def require_unused(weighting: nn.Module, attribute: str) -> None:
    """Raise an error where ``weighting`` has its state already."""
    if hasattr(weighting, attribute):
        raise LimbeckError(
            f"this {type(weighting).__name__} belongs to another objective already, and has state: use one for each"
        )
