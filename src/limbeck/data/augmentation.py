"""Views: an augmentation is a pure function of (seed, sample, view), so teacher and student see the same image.

Nothing is drawn from a shared generator: the fifth view of sample 17 is the same in any order, in any worker, after a
resume, so teacher outputs can be cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data import transforms
from limbeck.data.counter_rng import CounterRNG
from limbeck.data.mixing import MixParams
from limbeck.data.transforms.transform import MixTransform, Transform

__all__ = ["Augmentation", "default_augmentation"]


@final
@dataclass(frozen=True, slots=True)
class Augmentation:
    """How images are changed each time they are shown.

    Arguments:
        transforms: in the order in which they are done, those that mix two images last; none shows the images as
            they are.
        num_views: how many views each sample has, shown in turn; 0 makes a fresh one each time.
        repeats: in how many views a sample that was read is shown in the same batch (Hoffer et al., CVPR 2020,
            https://arxiv.org/abs/1901.09335): reading costs that much less, and a batch holds that many fewer samples.

    >>> import torch
    >>> from limbeck.data import horizontal_flip
    >>> views = Augmentation((horizontal_flip(),), num_views=2)
    >>> views.view_index(torch.tensor([0, 1, 2, 3]))
    tensor([0, 1, 0, 1])
    """

    transforms: tuple[Transform | MixTransform, ...] = ()
    num_views: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))
        if self.num_views < 0:
            raise LimbeckError(f"num_views is a number of views, 0 for fresh ones each time, not {self.num_views}")
        if self.repeats < 1:
            raise LimbeckError(f"repeats is a number of views for each read, at least 1, not {self.repeats}")
        if self.repeats > 1 and not self.transforms:
            raise LimbeckError(f"repeats {self.repeats} would show each image unchanged as often: add transforms")
        if self.num_views % self.repeats:
            raise LimbeckError(
                f"num_views is a multiple of repeats, so that views come in turn, and {self.num_views} is none of "
                f"{self.repeats}"
            )
        for transform in self.transforms:
            _require_transform(transform)
        if any(isinstance(transform, MixTransform) for transform in self.transforms[: len(self.image_transforms)]):
            raise LimbeckError(
                "mixup and cutmix come last among the transforms, since they mix images that were changed already"
            )

    @property
    def image_transforms(self) -> tuple[Transform, ...]:
        """The transforms that change one image."""
        return tuple(transform for transform in self.transforms if not isinstance(transform, MixTransform))

    @property
    def mix_transforms(self) -> tuple[MixTransform, ...]:
        """Those that mix two."""
        return tuple(transform for transform in self.transforms if isinstance(transform, MixTransform))

    def view_index(self, showings: Tensor) -> Tensor:
        """Which view is shown at each of ``showings``, counted from 0."""
        return showings % self.num_views if self.num_views else showings

    def apply(self, images: Tensor, sample_ids: Tensor, views: Tensor, *, seed: int) -> Tensor:
        """``views`` of the samples ``sample_ids`` (``[batch]`` each) whose images are ``images`` in 0..1.

        Nothing is mixed here; that takes a second image, which :meth:`sample_mix` chooses.
        """
        for i, transform in enumerate(self.image_transforms):
            images = transform(images, CounterRNG.for_samples(sample_ids, views, seed=seed, transform_index=i))
        return images.clamp(0, 1) if self.transforms else images

    def sample_mix(self, sample_ids: Tensor, views: Tensor, *, seed: int, population: int) -> MixParams | None:
        """Which of these views are mixed, and with which of ``population`` samples; ``None`` where views mix
        nothing.
        """
        if not self.mix_transforms:
            return None
        return MixParams.sample(
            self.mix_transforms,
            CounterRNG.for_samples(sample_ids, views, seed=seed, transform_index=len(self.image_transforms)),
            population=population,
        )


def default_augmentation(
    crop: int = 4, jitter: float = 0.4, mixup: float = 0.2, flip: float = 0.0, num_views: int = 0, repeats: int = 1
) -> Augmentation:
    """Random crop, color jitter, Mixup and optionally a horizontal flip.

    Arguments:
        crop: pixels to pad by before cutting the old size out; 0 leaves it out.
        jitter: of brightness, contrast and saturation, and a quarter of it of hue; 0 leaves it out.
        mixup: alpha of Mixup; 0 leaves it out.
        flip: how often images are mirrored; 0 leaves it out.
        num_views: see :class:`Augmentation`.
        repeats: see :class:`Augmentation`.

    >>> default_augmentation(jitter=0.0).transforms
    (RandomCrop(padding=4, padding_mode='constant'), Mixup(alpha=0.2, p=1.0))
    """
    chosen_transforms: list[Transform | MixTransform] = []
    if crop:
        chosen_transforms.append(transforms.random_crop(crop))
    if flip:
        chosen_transforms.append(transforms.horizontal_flip(flip))
    if jitter:
        chosen_transforms.append(transforms.color_jitter(jitter, jitter, jitter, jitter / 4))
    if mixup:
        chosen_transforms.append(transforms.mixup(mixup))
    return Augmentation(tuple(chosen_transforms), num_views, repeats)


def _require_transform(transform: object) -> None:
    if type(transform).__module__.startswith("torchvision."):
        name = type(transform).__name__
        raise LimbeckError(
            f"{name} is torchvision's own and draws from the global generator: write torchvision({name!r}, …), with "
            "its settings"
        )
    if not callable(transform) and not isinstance(transform, MixTransform):
        raise LimbeckError(f"a transform is called with images and draws, and {transform!r} cannot be")
