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

from limbeck.data.counter_rng import Draws
from limbeck.data.split import UNLABELLED
from limbeck.data.transforms.mix_images import beta_quantile
from limbeck.data.transforms.transform import Mixing

__all__ = ["Mixture", "shared"]


@final
@dataclass(frozen=True, slots=True)
class Mixture:
    """What is mixed in one batch.

    Attributes:
        rows: ``[m]``, the rows of the batch that are mixed.
        partner: ``[m]``, with which sample: its place in the population.
        mixings: the ways to mix.
        way: ``[m]``, which of them.
        share: ``[m]`` float32, how much of the row's own picture is to be left.
        centre: ``[m, 2]`` numbers from 0 to below 1.
    """

    rows: Tensor
    partner: Tensor
    mixings: tuple[Mixing, ...]
    way: Tensor
    share: Tensor
    centre: Tensor

    @classmethod
    def of(cls, mixings: Sequence[Mixing], draws: Draws, *, among: int) -> Self:
        """For each row one of ``mixings``, drawn evenly, with its probability, and a partner ``among`` so many."""
        which, luck, coarse, fine, quantile, *centre = draws.uniform(7).double().unbind(1)
        way = (which * len(mixings)).long()
        probability, alpha = (
            torch.tensor([getattr(mixing, name) for mixing in mixings], dtype=torch.float64)[way]
            for name in ("probability", "alpha")
        )
        rows = (luck < probability).nonzero().squeeze(1)
        # A number has 24 bits; two of them reach every sample of more than 16 million.
        partner = ((coarse + fine * 2.0**-24) * among).long()
        share = beta_quantile(alpha[rows], quantile[rows]).float()
        return cls(rows, partner[rows], tuple(mixings), way[rows], share, torch.stack(centre, 1)[rows])

    def pictures(self, images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """``images`` ``[batch, ...]`` with the rows mixed, and what is left of each, ``[batch]``.

        ``others`` ``[m, ...]`` are the partners' pictures.
        """
        if len(self.mixings) == 1 and len(self.rows) == len(images):  # the usual case needs no copies
            return self.mixings[0].blend(images, others, self.share, self.centre)
        images, left = images.clone(), images.new_ones(len(images))
        for number, mixing in enumerate(self.mixings):
            mine = (self.way == number).nonzero().squeeze(1)
            rows = self.rows[mine]
            images[rows], left[rows] = mixing.blend(images[rows], others[mine], self.share[mine], self.centre[mine])
        return images, left

    def target(self, target: Tensor, others: Tensor, left: Tensor, *, classes: int) -> Tensor:
        """Probabilities ``[batch, classes]`` out of the class numbers ``[batch]`` and of the partners' ``[m]``.

        ``left`` is what :meth:`pictures` gave. A row without a label, or with a partner that has none, is all zeros.
        """
        whole = target.clone()
        whole[self.rows] = others
        return shared(target, whole, left, classes=classes)


def shared(target: Tensor, others: Tensor, share: Tensor, *, classes: int) -> Tensor:
    """``share`` of the one label and the rest of the other: probabilities ``[batch, classes]``.

    A row of which either label is missing (−100) is all zeros, which says that it has none.

    >>> shared(torch.tensor([0, 1]), torch.tensor([1, -100]), torch.tensor([0.75, 0.5]), classes=2)
    tensor([[0.7500, 0.2500],
            [0.0000, 0.0000]])
    """
    known = (target != UNLABELLED) & (others != UNLABELLED)
    one, other = (F.one_hot(each.where(known, 0), classes).to(share) for each in (target, others))
    return (one * share[:, None] + other * (1 - share)[:, None]) * known[:, None]
