"""Augmentation as a pure function of (seed, sample, view), so that teacher and student see the same image.

No shared generator is used: a view is the same in any order, worker or resumed run, so teacher outputs can be cached.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from torch import Tensor

import limbeck.data.transforms as transforms
from limbeck.core.errors import LimbeckError
from limbeck.core.limits import MAX_BATCH_SIZE, MAX_VIEWS
from limbeck.data.box_store import clip_boxes_to_image, remove_small_boxes
from limbeck.data.counter_rng import CounterRNG
from limbeck.data.transforms.mix_images import MixParams
from limbeck.data.transforms.transform import BoxTransform, MaskTransform, MixTransform, SequenceTransform, Transform

__all__ = ["Augmentation", "default_augmentation"]

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


@final
@dataclass(frozen=True, slots=True)
class Augmentation:
    """Transforms of training images.

    Args:
        transforms: applied in order; those that mix two images last.
        num_views: number of views of each sample, shown in turn; 0: a new view each time.
        repeats: number of views of each sample in one batch (Hoffer et al., CVPR 2020,
            https://arxiv.org/abs/1901.09335), which then holds fewer samples, each read once.

    >>> import torch
    >>> from limbeck.data import horizontal_flip
    >>> views = Augmentation((horizontal_flip(),), num_views=2)
    >>> views.view_index(torch.tensor([0, 1, 2, 3]))
    tensor([0, 1, 0, 1])
    """

    transforms: tuple[Transform | MixTransform | SequenceTransform, ...] = ()
    num_views: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))
        if not 0 <= self.num_views <= MAX_VIEWS:
            raise LimbeckError(f"num_views must be from 0 to {MAX_VIEWS:,}, got {self.num_views}")
        if not 1 <= self.repeats <= MAX_BATCH_SIZE:
            raise LimbeckError(f"repeats must be from 1 to {MAX_BATCH_SIZE:,}, got {self.repeats}")
        if self.repeats > 1 and not self.transforms:
            raise LimbeckError(f"repeats must be 1 without transforms, got {self.repeats}: add transforms")
        if self.num_views % self.repeats:
            raise LimbeckError(f"num_views must be a multiple of repeats ({self.repeats}), got {self.num_views}")
        for transform in self.transforms:
            name = type(transform).__name__
            if type(transform).__module__.startswith("torchvision."):
                raise LimbeckError(
                    f"{name} of torchvision draws from the global generator: use torchvision({name!r}, …) of limbeck"
                )
            if not callable(transform) and not isinstance(transform, MixTransform | SequenceTransform):
                raise LimbeckError(f"a transform must be callable with images and rng, got {transform!r}")
        if any(isinstance(transform, MixTransform) for transform in self.transforms[: len(self.image_transforms)]):
            raise LimbeckError("mixup and cutmix must come last among the transforms: move them to the end")

    @property
    def image_transforms(self) -> tuple[Transform, ...]:
        """The transforms of one image."""
        return tuple(t for t in self.transforms if not isinstance(t, MixTransform) and isinstance(t, Transform))

    @property
    def mix_transforms(self) -> tuple[MixTransform, ...]:
        """The transforms that mix two images."""
        return tuple(transform for transform in self.transforms if isinstance(transform, MixTransform))

    def view_index(self, showings: Tensor) -> Tensor:
        """The view at each of ``showings``, counted from 0."""
        return showings % self.num_views if self.num_views else showings

    def apply(self, images: Tensor, sample_ids: Tensor, views: Tensor, *, seed: int) -> Tensor:
        """``images`` in 0..1 of ``sample_ids`` in ``views`` (``[batch]`` each), without mixing."""
        for i, transform in enumerate(self.image_transforms):
            images = transform(images, CounterRNG.for_samples(sample_ids, views, seed=seed, transform_index=i))
        return images.clamp(0, 1) if self.transforms else images

    def apply_to_masks(self, masks: Tensor, sample_ids: Tensor, views: Tensor, *, seed: int) -> Tensor:
        """``masks`` ``[batch, height, width]`` of class indices, moved as :meth:`apply` moves their images."""
        for i, transform in enumerate(self.require_masks()):
            rng = CounterRNG.for_samples(sample_ids, views, seed=seed, transform_index=i)
            masks = transform.transform_masks(masks, rng)
        return masks

    def require_masks(self) -> tuple[MaskTransform, ...]:
        """The transforms, which all transform masks too; an error where one does not."""
        kept = tuple(transform for transform in self.transforms if isinstance(transform, MaskTransform))
        self._require_all(kept, "masks")
        return kept

    def apply_to_boxes(
        self, fields: dict[str, Tensor], size: tuple[int, int], sample_ids: Tensor, views: Tensor, *, seed: int
    ) -> dict[str, Tensor]:
        """The boxes of images of ``size`` (height, width), moved as :meth:`apply` moves their images.

        ``fields`` are those of :meth:`~limbeck.data.BoxStore.read`. Boxes are cut at the border of the image; those
        below 1 pixel are dropped.
        """
        boxes = fields["boxes"]
        for i, transform in enumerate(self.require_boxes()):
            rng = CounterRNG.for_samples(sample_ids, views, seed=seed, transform_index=i)
            boxes = clip_boxes_to_image(transform.transform_boxes(boxes, size, rng), size)
        return remove_small_boxes({**fields, "boxes": boxes}) if self.transforms else fields

    def require_boxes(self) -> tuple[BoxTransform, ...]:
        """The transforms, which all transform boxes too; an error where one does not."""
        kept = tuple(transform for transform in self.transforms if isinstance(transform, BoxTransform))
        self._require_all(kept, "boxes")
        return kept

    def _require_all(self, kept: Sequence[Transform], targets: str) -> None:
        for transform in self.transforms:
            if not any(transform is other for other in kept) or not getattr(transform, "transforms_targets", True):
                raise LimbeckError(
                    f"{transform!r} cannot transform {targets} together with images: remove it, or give it a method "
                    f"transform_{targets}"
                )

    def apply_to_sequences(
        self, inputs: Tensor, lengths: Tensor, sample_ids: Tensor, views: Tensor, *, seed: int
    ) -> Tensor:
        """Padded ``inputs`` ``[batch, longest, ...]`` of ``sample_ids`` in ``views``."""
        for i, transform in enumerate(self.require_sequences()):
            rng = CounterRNG.for_samples(sample_ids, views, seed=seed, transform_index=i)
            inputs = transform.transform_sequences(inputs, lengths, rng)
        return inputs

    def require_sequences(self) -> tuple[SequenceTransform, ...]:
        """The transforms, which all transform sequences; an error where one does not."""
        for transform in self.transforms:
            if not isinstance(transform, SequenceTransform):
                raise LimbeckError(
                    f"{transform!r} transforms images, and the samples are sequences: remove it, or give it a method "
                    "transform_sequences"
                )
        return tuple(transform for transform in self.transforms if isinstance(transform, SequenceTransform))

    def sample_mix(self, sample_ids: Tensor, views: Tensor, *, seed: int, population: int) -> MixParams | None:
        """The mixed rows and their partners out of ``population`` samples; ``None`` without mixing transforms."""
        if not self.mix_transforms:
            return None
        index = len(self.image_transforms)
        rng = CounterRNG.for_samples(sample_ids, views, seed=seed, transform_index=index)
        return MixParams.sample(self.mix_transforms, rng, population=population)

    def describe(self) -> list[str]:
        """The number of views and the settings of each transform, with the code of a user's transform.

        Raises:
            LimbeckError: the ``repr`` of a transform does not contain its settings.
        """
        return [str(self.num_views), *map(_describe_transform, self.transforms)] if self.transforms else []


def default_augmentation(
    crop: int = 4, jitter: float = 0.4, mixup: float = 0.2, flip: float = 0.0, num_views: int = 0, repeats: int = 1
) -> Augmentation:
    """Random crop, color jitter, Mixup and optionally a horizontal flip; 0 omits a transform.

    Args:
        crop: padding of the random crop in pixels.
        jitter: range of brightness, contrast and saturation, and four times that of the hue.
        mixup: alpha of Mixup.
        flip: probability of the flip.
        num_views: see :class:`Augmentation`.
        repeats: see :class:`Augmentation`.

    >>> default_augmentation(jitter=0.0).transforms
    (RandomCrop(padding=4, padding_mode='constant'), Mixup(alpha=0.2, p=1.0))
    """
    selected: list[Transform | MixTransform] = []
    if crop:
        selected.append(transforms.random_crop(crop))
    if flip:
        selected.append(transforms.horizontal_flip(flip))
    if jitter:
        selected.append(transforms.color_jitter(jitter, jitter, jitter, jitter / 4))
    if mixup:
        selected.append(transforms.mixup(mixup))
    return Augmentation(tuple(selected), num_views, repeats)


def _describe_transform(transform: object) -> str:
    description = repr(transform)
    kind = transform if inspect.isroutine(transform) else type(transform)
    if _ADDRESS.search(description):
        raise LimbeckError(
            f"the repr of a transform must contain its settings to cache outputs, got {description}: make it a frozen "
            "dataclass"
        )
    if (kind.__module__ or "").startswith("limbeck."):
        return f"{kind.__qualname__} {description}"
    try:
        return f"{kind.__qualname__} {description} {inspect.getsource(kind)}"
    except (OSError, TypeError):  # defined in a console: there are only its settings
        return f"{kind.__module__}.{kind.__qualname__} {description}"
