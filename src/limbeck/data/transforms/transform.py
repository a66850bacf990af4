"""The two kinds of transforms: those that change one image, and those that mix two."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from limbeck.data.counter_rng import CounterRNG

__all__ = ["MixTransform", "Transform"]


@runtime_checkable
class Transform(Protocol):
    """A change of images that depends on nothing but the draws."""

    def __call__(self, images: Tensor, rng: CounterRNG) -> Tensor:
        """The changed images, of the same shape."""
        ...


@runtime_checkable
class MixTransform(Protocol):
    """A blend of two images, each with its share of the label.

    Attributes:
        alpha: the share is drawn from Beta(alpha, alpha).
        p: how often an image is mixed at all.
    """

    @property
    def alpha(self) -> float: ...

    @property
    def p(self) -> float: ...

    def blend(self, images: Tensor, partners: Tensor, lam: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
        """Each of ``images`` blended with the one of ``partners`` in its place.

        Arguments:
            images: ``[batch, channels, height, width]``.
            partners: of the same shape.
            lam: ``[batch]``, how much of ``images`` is to be left.
            center: ``[batch, 2]`` numbers from 0 to below 1, for what has a place: from top and from left.

        Returns:
            The blend, and how much of ``images`` is left in it, ``[batch]``.
        """
        ...
