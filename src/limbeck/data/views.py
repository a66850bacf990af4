"""Views: an augmentation is a pure function of (seed, sample, view), so teacher and student see the same picture.

Nothing is drawn from a shared generator: the fifth view of sample 17 is the same in any order, in any worker, after a
resume, and tomorrow, which is what lets a teacher's answer to it be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.draws import Draws
from limbeck.data.transforms import Transform

__all__ = ["Views"]


@final
@dataclass(frozen=True, slots=True)
class Views:
    """How pictures are changed each time they are shown.

    Arguments:
        transforms: in the order in which they are done; none shows the pictures as they are.
        per_sample: how many views each sample has, shown in turn; 0 makes a fresh one each time.

    >>> import torch
    >>> from limbeck.data import flip
    >>> views = Views((flip(),), per_sample=2)
    >>> views.number(torch.tensor([0, 1, 2, 3]))
    tensor([0, 1, 0, 1])
    """

    transforms: tuple[Transform, ...] = ()
    per_sample: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))
        if self.per_sample < 0:
            raise LimbeckError(f"per_sample is a number of views, 0 for fresh ones each time, not {self.per_sample}")

    def number(self, showing: Tensor) -> Tensor:
        """Which view is shown the ``showing``-th time, counted from 0."""
        return showing % self.per_sample if self.per_sample else showing

    def apply(self, images: Tensor, sample: Tensor, view: Tensor, *, seed: int) -> Tensor:
        """The views ``view`` of the samples ``sample`` (``[batch]`` each) whose pictures are ``images`` in 0..1."""
        for place, transform in enumerate(self.transforms):
            images = transform(images, Draws.of(sample, view, seed=seed, place=place))
        return images.clamp(0, 1) if self.transforms else images
