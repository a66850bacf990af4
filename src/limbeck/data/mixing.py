"""Who is mixed with whom, and how much: a pure function of (seed, sample, view) and of the population.

The partner of Mixup and CutMix is drawn from all samples that are trained on, never from the batch, so a view does not
depend on the batch in which it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.data.counter_rng import CounterRNG
from limbeck.data.split import UNLABELED
from limbeck.data.transforms.mix_images import beta_quantile
from limbeck.data.transforms.transform import MixTransform

__all__ = ["MixParams", "interpolate_labels"]


@final
@dataclass(frozen=True, slots=True)
class MixParams:
    """What is mixed in one batch.

    Attributes:
        rows: ``[m]``, the rows of the batch that are mixed.
        partners: ``[m]``, with which sample: its place in the population.
        transforms: the ways to mix.
        transform_index: ``[m]``, which of them.
        lam: ``[m]`` float32, how much of the row's own image is to be left.
        center: ``[m, 2]`` numbers from 0 to below 1.
    """

    rows: Tensor
    partners: Tensor
    transforms: tuple[MixTransform, ...]
    transform_index: Tensor
    lam: Tensor
    center: Tensor

    @classmethod
    def sample(cls, transforms: Sequence[MixTransform], rng: CounterRNG, *, population: int) -> Self:
        """For each row one of ``transforms``, drawn evenly, with its probability, and a partner of the
        ``population``.
        """
        selector, chance, coarse, fine, quantile, *center = rng.uniform(7).double().unbind(1)
        transform_index = (selector * len(transforms)).long()
        p, alpha = (
            torch.tensor([getattr(transform, name) for transform in transforms], dtype=torch.float64)[transform_index]
            for name in ("p", "alpha")
        )
        rows = (chance < p).nonzero().squeeze(1)
        # A number has 24 bits; two of them reach every sample of more than 16 million.
        partners = ((coarse + fine * 2.0**-24) * population).long()
        lam = beta_quantile(alpha[rows], quantile[rows]).float()
        return cls(rows, partners[rows], tuple(transforms), transform_index[rows], lam, torch.stack(center, 1)[rows])

    def mix_images(self, images: Tensor, partner_images: Tensor) -> tuple[Tensor, Tensor]:
        """``images`` ``[batch, ...]`` with the rows mixed, and what is left of each, ``[batch]``.

        ``partner_images`` ``[m, ...]`` are the partners' images.
        """
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
        """Probabilities ``[batch, classes]`` out of the class numbers ``[batch]`` and of the partners' ``[m]``.

        ``fraction`` is what :meth:`mix_images` gave. A row without a label, or with a partner that has none, is all
        zeros.
        """
        full_target = target.clone()
        full_target[self.rows] = partner_target
        return interpolate_labels(target, full_target, fraction, classes=classes)


def interpolate_labels(target: Tensor, partner_target: Tensor, lam: Tensor, *, classes: int) -> Tensor:
    """``lam`` of the one label and the rest of the other: probabilities ``[batch, classes]``.

    A row of which either label is missing (−100) is all zeros, which says that it has none.

    >>> interpolate_labels(torch.tensor([0, 1]), torch.tensor([1, -100]), torch.tensor([0.75, 0.5]), classes=2)
    tensor([[0.7500, 0.2500],
            [0.0000, 0.0000]])
    """
    is_labeled = (target != UNLABELED) & (partner_target != UNLABELED)
    one_hot, partner_one_hot = (
        F.one_hot(labels.where(is_labeled, 0), classes).to(lam) for labels in (target, partner_target)
    )
    return (one_hot * lam[:, None] + partner_one_hot * (1 - lam)[:, None]) * is_labeled[:, None]
