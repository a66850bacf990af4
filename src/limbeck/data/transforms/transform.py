"""The protocols of transforms that change one image, its mask and boxes too, and of those that mix two images."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from limbeck.data.counter_rng import CounterRNG

__all__ = ["BoxTransform", "MaskTransform", "MixTransform", "SequenceTransform", "Transform"]


@runtime_checkable
class Transform(Protocol):
    """A change of images that draws from ``rng`` only."""

    def __call__(self, images: Tensor, rng: CounterRNG) -> Tensor:
        """The changed images ``[batch, channels, height, width]``, of the same shape."""
        ...


@runtime_checkable
class MaskTransform(Transform, Protocol):
    """A transform of images that transforms their masks too."""

    def transform_masks(self, masks: Tensor, rng: CounterRNG) -> Tensor:
        """``[batch, height, width]`` class indices, moved as the images by the same draws of ``rng``.

        Pixels from outside the image have no class, −100.
        """
        ...


@runtime_checkable
class BoxTransform(Transform, Protocol):
    """A transform of images that transforms their boxes too."""

    def transform_boxes(self, boxes: Tensor, size: tuple[int, int], rng: CounterRNG) -> Tensor:
        """``[batch, k, 4]`` boxes (left, top, right, bottom in pixels), moved as the images by the same draws.

        Args:
            boxes: of each image; the padding is of any values.
            size: height and width of the images.
            rng: the draws of the images.

        Returns:
            Boxes of the same shape. Parts outside the image are cut off by the caller.
        """
        ...


@runtime_checkable
class SequenceTransform(Protocol):
    """A change of padded sequences that draws from ``rng`` only."""

    def transform_sequences(self, inputs: Tensor, lengths: Tensor, rng: CounterRNG) -> Tensor:
        """The changed ``inputs`` ``[batch, longest, ...]``, of the same shape; ``lengths`` ``[batch]`` are valid."""
        ...


@runtime_checkable
class MixTransform(Protocol):
    """A blend of two images and their labels.

    Attributes:
        alpha: the fraction λ of the first image is drawn from Beta(alpha, alpha).
        p: probability that an image is mixed.
    """

    @property
    def alpha(self) -> float: ...

    @property
    def p(self) -> float: ...

    def blend(self, images: Tensor, partners: Tensor, lam: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
        """Blend ``images`` ``[batch, channels, height, width]`` with ``partners``, row by row.

        Args:
            images: the first images.
            partners: the second images, of the same shape.
            lam: ``[batch]``, fraction of ``images`` to keep.
            center: ``[batch, 2]`` numbers in [0, 1): relative position from top and left.

        Returns:
            The blend, and the fraction of ``images`` in it, ``[batch]``.
        """
        ...
