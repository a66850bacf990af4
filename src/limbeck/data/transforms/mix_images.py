"""Mixup (Zhang et al., ICLR 2018, https://arxiv.org/abs/1710.09412) and CutMix (Yun et al., ICCV 2019,
https://arxiv.org/abs/1905.04899): two images in one, and both their labels.

Who is mixed with whom is settled in :class:`~limbeck.data.mixing.MixParams`.
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
    p: float

    def blend(self, images: Tensor, partners: Tensor, lam: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
        weight = lam.reshape(-1, *[1] * (images.ndim - 1))
        return (images * weight).add_(partners * (1 - weight)), lam


@final
@dataclass(frozen=True, slots=True)
class CutMix:
    """See :func:`cutmix`."""

    alpha: float
    p: float

    def blend(self, images: Tensor, partners: Tensor, lam: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
        if images.ndim != 4:
            raise LimbeckError(
                f"cutmix pastes a rectangle of an image, [channels, height, width], and these inputs are "
                f"{list(images.shape[1:])}: take mixup"
            )
        half_side, (height, width) = 0.5 * (1 - lam.double()).sqrt(), images.shape[2:]
        in_boxes, pasted_area = torch.ones(len(images), 1, 1, dtype=torch.bool), torch.ones(len(images))
        for dim, size, position in ((2, height, center[:, 0]), (1, width, center[:, 1])):
            center_pixel, radius = (position * size).long(), (half_side * size).long()
            low, high = (center_pixel - radius).clamp(min=0), (center_pixel + radius).clamp(max=size)
            coordinates = torch.arange(size)
            in_box = (coordinates >= low[:, None]) & (coordinates < high[:, None])
            in_boxes, pasted_area = in_boxes & in_box.unsqueeze(dim), pasted_area * (high - low)
        return torch.where(in_boxes.unsqueeze(1), partners, images), 1 - pasted_area / (height * width)


def mixup(alpha: float = 0.2, p: float = 1.0) -> Mixup:
    """λ of the image and 1 − λ of another, λ from Beta(``alpha``, ``alpha``); the label alike.

    >>> half = torch.tensor([0.5])
    >>> mixup().blend(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), half, torch.zeros(1, 2))[0].sum()
    tensor(2.)
    """
    _require_valid_parameters("mixup", alpha, p)
    return Mixup(alpha, p)


def cutmix(alpha: float = 1.0, p: float = 1.0) -> CutMix:
    """A rectangle of another image pasted in, of 1 − λ of the area, λ from Beta(``alpha``, ``alpha``).

    Its middle may be anywhere, and what is outside the image is cut off: the label is shared by the area that was
    pasted.

    >>> half = torch.tensor([0.5])
    >>> cutmix().blend(torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), half, torch.zeros(1, 2))[1]
    tensor([0.9375])
    """
    _require_valid_parameters("cutmix", alpha, p)
    return CutMix(alpha, p)


def beta_quantile(alpha: Tensor, uniform: Tensor) -> Tensor:
    """Beta(alpha, alpha) numbers out of uniform ones, float64 of the same shape: the inverse of its distribution.

    >>> beta_quantile(torch.tensor([0.2, 1.0]), torch.tensor([0.5, 0.25])).tolist()
    [0.5, 0.25]
    """
    from scipy.special import betaincinv  # comes with scikit-learn

    alpha64 = alpha.double().numpy()
    return torch.from_numpy(betaincinv(alpha64, alpha64, uniform.double().numpy()))


def _require_valid_parameters(name: str, alpha: float, p: float) -> None:
    if not 0 < alpha < float("inf"):
        raise LimbeckError(f"{name}'s alpha is a number above 0, not {alpha}: leave {name} out to mix nothing")
    if not 0 < p <= 1:
        raise LimbeckError(f"{name}'s p is above 0 and at most 1, not {p}: leave {name} out to mix nothing")
