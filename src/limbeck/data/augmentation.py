"""Views: an augmentation is a pure function of (seed, sample, view), so teacher and student see the same picture.

Nothing is drawn from a shared generator: the fifth view of sample 17 is the same in any order, in any worker, after a
resume, and tomorrow, which is what lets a teacher's answer to it be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data import transforms
from limbeck.data.counter_rng import Draws
from limbeck.data.mixing import Mixture
from limbeck.data.transforms.transform import Mixing, Transform

__all__ = ["Views", "composite"]


@final
@dataclass(frozen=True, slots=True)
class Views:
    """How pictures are changed each time they are shown.

    Arguments:
        transforms: in the order in which they are done, those that mix two pictures last; none shows the pictures as
            they are.
        per_sample: how many views each sample has, shown in turn; 0 makes a fresh one each time.
        per_decode: in how many views a sample that was read is shown in the same batch (Hoffer et al., CVPR 2020,
            https://arxiv.org/abs/1901.09335): reading costs that much less, and a batch holds that many fewer samples.

    >>> import torch
    >>> from limbeck.data import flip
    >>> views = Views((flip(),), per_sample=2)
    >>> views.number(torch.tensor([0, 1, 2, 3]))
    tensor([0, 1, 0, 1])
    """

    transforms: tuple[Transform | Mixing, ...] = ()
    per_sample: int = 0
    per_decode: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))
        if self.per_sample < 0:
            raise LimbeckError(f"per_sample is a number of views, 0 for fresh ones each time, not {self.per_sample}")
        if self.per_decode < 1:
            raise LimbeckError(f"per_decode is a number of views for each read, at least 1, not {self.per_decode}")
        if self.per_decode > 1 and not self.transforms:
            raise LimbeckError(
                f"per_decode {self.per_decode} would show each picture unchanged as often: add transforms"
            )
        if self.per_sample % self.per_decode:
            raise LimbeckError(
                f"per_sample is a multiple of per_decode, so that views come in turn, and {self.per_sample} is none of "
                f"{self.per_decode}"
            )
        for transform in self.transforms:
            _require_known(transform)
        if any(isinstance(transform, Mixing) for transform in self.transforms[: len(self.changes)]):
            raise LimbeckError(
                "mixup and cutmix come last among the transforms, since they mix pictures that were changed already"
            )

    @property
    def changes(self) -> tuple[Transform, ...]:
        """The transforms that change one picture."""
        return tuple(each for each in self.transforms if not isinstance(each, Mixing))

    @property
    def mixings(self) -> tuple[Mixing, ...]:
        """Those that mix two."""
        return tuple(each for each in self.transforms if isinstance(each, Mixing))

    def number(self, showing: Tensor) -> Tensor:
        """Which view is shown the ``showing``-th time, counted from 0."""
        return showing % self.per_sample if self.per_sample else showing

    def apply(self, images: Tensor, sample: Tensor, view: Tensor, *, seed: int) -> Tensor:
        """The views ``view`` of the samples ``sample`` (``[batch]`` each) whose pictures are ``images`` in 0..1.

        Nothing is mixed here; that takes a second picture, which :meth:`mixture` chooses.
        """
        for place, transform in enumerate(self.changes):
            images = transform(images, Draws.of(sample, view, seed=seed, place=place))
        return images.clamp(0, 1) if self.transforms else images

    def mixture(self, sample: Tensor, view: Tensor, *, seed: int, among: int) -> Mixture | None:
        """Which of these views are mixed, and with which of ``among`` samples; ``None`` where views mix nothing."""
        if not self.mixings:
            return None
        return Mixture.of(self.mixings, Draws.of(sample, view, seed=seed, place=len(self.changes)), among=among)


def composite(
    crop: int = 4, jitter: float = 0.4, mixup: float = 0.2, flip: float = 0.0, per_sample: int = 0, per_decode: int = 1
) -> Views:
    """Random crop, colour jitter and Mixup together, and a flip if asked for.

    Arguments:
        crop: pixels to pad by before cutting the old size out; 0 leaves it out.
        jitter: of brightness, contrast and saturation, and a quarter of it of hue; 0 leaves it out.
        mixup: alpha of Mixup; 0 leaves it out.
        flip: how often pictures are mirrored; 0 leaves it out.
        per_sample: see :class:`Views`.
        per_decode: see :class:`Views`.

    >>> composite(jitter=0.0).transforms
    (Crop(padding=4, mode='constant'), Mixup(alpha=0.2, probability=1.0))
    """
    found: list[Transform | Mixing] = []
    if crop:
        found.append(transforms.crop(crop))
    if flip:
        found.append(transforms.flip(flip))
    if jitter:
        found.append(transforms.color_jitter(jitter, jitter, jitter, jitter / 4))
    if mixup:
        found.append(transforms.mixup(mixup))
    return Views(tuple(found), per_sample, per_decode)


def _require_known(transform: object) -> None:
    if type(transform).__module__.startswith("torchvision."):
        name = type(transform).__name__
        raise LimbeckError(
            f"{name} is torchvision's own and draws from the global generator: write torchvision({name!r}, …), with "
            "its settings"
        )
    if not callable(transform) and not isinstance(transform, Mixing):
        raise LimbeckError(f"a transform is called with pictures and draws, and {transform!r} cannot be")
