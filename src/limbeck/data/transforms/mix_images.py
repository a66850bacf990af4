"""Mixup (Zhang et al., ICLR 2018, https://arxiv.org/abs/1710.09412) and CutMix (Yun et al., ICCV 2019,
https://arxiv.org/abs/1905.04899): two pictures in one, and both their labels.

Who is mixed with whom is settled in :class:`~limbeck.data.mixing.Mixture`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["CutMix", "Mixup", "beta_quantile", "cutmix", "mixup"]


@final
@dataclass(frozen=True, slots=True)
class Mixup:
    """See :func:`mixup`."""

    alpha: float
    probability: float

    def blend(self, images: Tensor, others: Tensor, share: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        weight = share.reshape(-1, *[1] * (images.ndim - 1))
        return (images * weight).add_(others * (1 - weight)), share


@final
@dataclass(frozen=True, slots=True)
class CutMix:
    """See :func:`cutmix`."""

    alpha: float
    probability: float

    def blend(self, images: Tensor, others: Tensor, share: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        if images.ndim != 4:
            raise LimbeckError(
                f"cutmix pastes a part of a picture, [channels, height, width], and these inputs are "
                f"{list(images.shape[1:])}: take mixup"
            )
        half, (height, width) = 0.5 * (1 - share.double()).sqrt(), images.shape[2:]
        inside, pasted = torch.ones(len(images), 1, 1, dtype=torch.bool), torch.ones(len(images))
        for side, size, where in ((2, height, centre[:, 0]), (1, width, centre[:, 1])):
            middle, reach = (where * size).long(), (half * size).long()
            low, high = (middle - reach).clamp(min=0), (middle + reach).clamp(max=size)
            line = torch.arange(size)
            on = (line >= low[:, None]) & (line < high[:, None])
            inside, pasted = inside & on.unsqueeze(side), pasted * (high - low)
        return torch.where(inside.unsqueeze(1), others, images), 1 - pasted / (height * width)


def mixup(alpha: float = 0.2, probability: float = 1.0) -> Mixup:
    """λ of the picture and 1 − λ of another, λ from Beta(``alpha``, ``alpha``); the label alike.

    >>> half = torch.tensor([0.5])
    >>> mixup().blend(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), half, torch.zeros(1, 2))[0].sum()
    tensor(2.)
    """
    _require_possible("mixup", alpha, probability)
    return Mixup(alpha, probability)


def cutmix(alpha: float = 1.0, probability: float = 1.0) -> CutMix:
    """A rectangle of another picture pasted in, of 1 − λ of the area, λ from Beta(``alpha``, ``alpha``).

    Its middle may be anywhere, and what would stand out is cut off: the label is shared by the area that was pasted.

    >>> half = torch.tensor([0.5])
    >>> cutmix().blend(torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), half, torch.zeros(1, 2))[1]
    tensor([0.9375])
    """
    _require_possible("cutmix", alpha, probability)
    return CutMix(alpha, probability)


def beta_quantile(alpha: Tensor, uniform: Tensor) -> Tensor:
    """Beta(alpha, alpha) numbers out of uniform ones, float64 of the same shape: the inverse of its distribution.

    >>> beta_quantile(torch.tensor([0.2, 1.0]), torch.tensor([0.5, 0.25])).tolist()
    [0.5, 0.25]
    """
    from scipy.special import betaincinv  # comes with scikit-learn

    exact = alpha.double().numpy()
    return torch.from_numpy(betaincinv(exact, exact, uniform.double().numpy()))


def _require_possible(what: str, alpha: float, probability: float) -> None:
    if not 0 < alpha < float("inf"):
        raise LimbeckError(f"{what}'s alpha is a number above 0, not {alpha}: leave {what} out to mix nothing")
    if not 0 < probability <= 1:
        raise LimbeckError(
            f"{what}'s probability is above 0 and at most 1, not {probability}: leave {what} out to mix nothing"
        )
