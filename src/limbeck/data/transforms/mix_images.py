"""Mixup (Zhang et al., ICLR 2018, https://arxiv.org/abs/1710.09412) and CutMix (Yun et al., ICCV 2019,
https://arxiv.org/abs/1905.04899).

The partner of an image is drawn from all training samples, not from the batch, so a view does not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import CounterRNG
from limbeck.data.split import UNLABELED
from limbeck.data.transforms.transform import MixTransform

__all__ = ["CutMix", "MixParams", "Mixup", "beta_quantile", "cutmix", "mixup"]


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
                f"inputs must be [channels, height, width] for cutmix, got {list(images.shape[1:])}: use mixup"
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


@final
@dataclass(frozen=True, slots=True)
class MixParams:
    """What is mixed in one batch.

    Attributes:
        rows: ``[m]``, the rows of the batch that are mixed.
        partners: ``[m]``, index of the partner in the population.
        transforms: the transforms to choose from.
        transform_index: ``[m]``, the chosen transform.
        lam: ``[m]`` float32, fraction of the first image to keep.
        center: ``[m, 2]`` numbers in [0, 1).
    """

    rows: Tensor
    partners: Tensor
    transforms: tuple[MixTransform, ...]
    transform_index: Tensor
    lam: Tensor
    center: Tensor

    @classmethod
    def sample(cls, transforms: Sequence[MixTransform], rng: CounterRNG, *, population: int) -> Self:
        """For each row one of ``transforms``, with equal probability, and a partner out of ``population``."""
        selector, chance, coarse, fine, quantile, *center = rng.uniform(7).double().unbind(1)
        transform_index = (selector * len(transforms)).long()
        p, alpha = torch.tensor([(t.p, t.alpha) for t in transforms], dtype=torch.float64)[transform_index].unbind(1)
        rows = (chance < p).nonzero().squeeze(1)
        # A draw has 24 bits; two of them reach every sample of more than 16 million.
        partners = ((coarse + fine * 2.0**-24) * population).long()
        lam = beta_quantile(alpha[rows], quantile[rows]).float()
        return cls(rows, partners[rows], tuple(transforms), transform_index[rows], lam, torch.stack(center, 1)[rows])

    def mix_images(self, images: Tensor, partner_images: Tensor) -> tuple[Tensor, Tensor]:
        """``images`` ``[batch, ...]`` mixed with ``partner_images`` ``[m, ...]``, and the fraction kept."""
        if len(self.transforms) == 1 and len(self.rows) == len(images):  # the usual case needs no copies
            return self.transforms[0].blend(images, partner_images, self.lam, self.center)
        images, fraction = images.clone(), images.new_ones(len(images))
        for i, transform in enumerate(self.transforms):
            selected = (self.transform_index == i).nonzero().squeeze(1)
            rows = self.rows[selected]
            images[rows], fraction[rows] = transform.blend(
                images[rows], partner_images[selected], self.lam[selected], self.center[selected]
            )
        return images, fraction

    def mix_target(self, target: Tensor, partner_target: Tensor, fraction: Tensor, *, classes: int) -> Tensor:
        """Probabilities ``[batch, classes]`` of class indices ``[batch]`` mixed with ``partner_target`` ``[m]``.

        ``fraction`` is returned by :meth:`mix_images`. A row is all zeros where one of its labels is missing.
        """
        partners = target.clone()
        partners[self.rows] = partner_target
        is_labeled = (target != UNLABELED) & (partners != UNLABELED)
        one_hot, partner_one_hot = (
            F.one_hot(labels.where(is_labeled, 0), classes).to(fraction) for labels in (target, partners)
        )
        return (one_hot * fraction[:, None] + partner_one_hot * (1 - fraction)[:, None]) * is_labeled[:, None]


def mixup(alpha: float = 0.2, p: float = 1.0) -> Mixup:
    """λ of the image and 1 − λ of a partner, with λ from Beta(``alpha``, ``alpha``), and of their labels.

    >>> half = torch.tensor([0.5])
    >>> mixup().blend(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), half, torch.zeros(1, 2))[0].sum()
    tensor(2.)
    """
    _check_parameters("mixup", alpha, p)
    return Mixup(alpha, p)


def cutmix(alpha: float = 1.0, p: float = 1.0) -> CutMix:
    """Paste a rectangle of a partner, of 1 − λ of the area, with λ from Beta(``alpha``, ``alpha``).

    The center is uniform, and the rectangle is clipped to the image: labels are mixed by the pasted area.

    >>> half = torch.tensor([0.5])
    >>> cutmix().blend(torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), half, torch.zeros(1, 2))[1]
    tensor([0.9375])
    """
    _check_parameters("cutmix", alpha, p)
    return CutMix(alpha, p)


def beta_quantile(alpha: Tensor, uniform: Tensor) -> Tensor:
    """Quantiles of Beta(alpha, alpha) at ``uniform``, float64.

    >>> beta_quantile(torch.tensor([0.2, 1.0]), torch.tensor([0.5, 0.25])).tolist()
    [0.5, 0.25]
    """
    from scipy.special import betaincinv

    alpha64 = alpha.double().numpy()
    return torch.from_numpy(betaincinv(alpha64, alpha64, uniform.double().numpy()))


def _check_parameters(name: str, alpha: float, p: float) -> None:
    if not 0 < alpha < float("inf"):
        raise LimbeckError(f"{name}'s alpha must be above 0, got {alpha}: remove {name} to mix nothing")
    if not 0 < p <= 1:
        raise LimbeckError(f"{name}'s p must be above 0 and at most 1, got {p}: remove {name} to mix nothing")
