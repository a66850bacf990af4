"""Transforms of ``torchvision.transforms.v2`` that keep the shape of an image.

torchvision draws from torch's global generator. It is seeded for each image and restored afterwards, so that a view is
a pure function of (seed, sample, view).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data.counter_rng import CounterRNG
from limbeck.data.mask_store import UNLABELED

__all__ = ["TorchvisionTransform", "rand_augment", "torchvision"]

_UNSUPPORTED = {
    "MixUp": "mixes images of a batch: use mixup, which draws partners from all samples",
    "CutMix": "mixes images of a batch: use cutmix, which draws partners from all samples",
    **dict.fromkeys(("FiveCrop", "TenCrop"), "returns several images, and a view is one"),
    **dict.fromkeys(
        ("Compose", "Lambda", "RandomApply", "RandomChoice", "RandomOrder", "Transform"),
        "takes other transforms or functions: list transforms one by one",
    ),
}
_UINT8_ONLY = {"JPEG"}
_IMAGE_ONLY = {"AugMix", "AutoAugment", "RandAugment", "TrivialAugmentWide"}


@final
@dataclass(frozen=True, slots=True)
class TorchvisionTransform:
    """See :func:`torchvision`; ``version`` is torchvision's, since versions may draw differently."""

    name: str
    options: tuple[tuple[str, Any], ...]
    version: str
    transform: Any = field(repr=False, compare=False)

    def __call__(self, images: Tensor, rng: CounterRNG) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            outputs = [self._apply(image, seed) for image, seed in zip(images, rng.seeds(), strict=True)]
        return torch.stack(outputs) if outputs else images

    @property
    def transforms_targets(self) -> bool:
        """Whether torchvision transforms masks and boxes with the image."""
        return self.name not in _IMAGE_ONLY

    def transform_masks(self, masks: Tensor, rng: CounterRNG) -> Tensor:
        from torchvision import tv_tensors

        # 0 is the value outside an image, so it must be no class there.
        encoded = [tv_tensors.Mask(mask - UNLABELED) for mask in masks]
        return torch.stack(self._apply_to_targets(encoded, tuple(masks.shape[1:]), rng)) + UNLABELED

    def transform_boxes(self, boxes: Tensor, size: tuple[int, int], rng: CounterRNG) -> Tensor:
        from torchvision import tv_tensors

        wrapped: list[Tensor] = [tv_tensors.BoundingBoxes(box, format="XYXY", canvas_size=size) for box in boxes]
        return torch.stack(self._apply_to_targets(wrapped, size, rng))

    def _apply_to_targets(self, targets: list[Tensor], size: tuple[int, ...], rng: CounterRNG) -> list[Tensor]:
        """Masks or boxes by the draws of their images, which do not depend on the pixels."""
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        options = {key: value for key, value in self.options if key != "fill"}  # `fill` is a color
        transform, outputs = _make_transform(getattr(v2, self.name), options), list[Tensor]()
        with torch.random.fork_rng(devices=[]):
            for target, seed in zip(targets, rng.seeds(), strict=True):
                torch.default_generator.manual_seed(seed)
                try:
                    output = transform(tv_tensors.Image(torch.zeros(3, *size)), target)[1].as_subclass(Tensor)
                except (TypeError, ValueError, RuntimeError) as error:
                    kind = type(target).__name__
                    raise LimbeckError(
                        f"torchvision's {self.name} cannot transform {kind} together with images "
                        f"({_first_line(error)}): remove it"
                    ) from error
                if output.shape != target.shape:
                    raise LimbeckError(
                        f"torchvision's {self.name} must keep the shape {list(target.shape)}, got {list(output.shape)}"
                    )
                outputs.append(output)
        return outputs

    def _apply(self, image: Tensor, seed: int) -> Tensor:
        # The CPU's generator only: torch.manual_seed would seed every GPU too.
        torch.default_generator.manual_seed(seed)
        input_image = image.mul(255).round().byte() if self.name in _UINT8_ONLY else image
        try:
            output = self.transform(input_image)
        except (TypeError, ValueError, RuntimeError) as error:
            raise LimbeckError(
                f"torchvision's {self.name} failed for an image {list(image.shape)}: {_first_line(error)}"
            ) from error
        if not isinstance(output, Tensor) or output.shape != image.shape:
            actual = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise LimbeckError(
                f"torchvision's {self.name} must keep the shape {list(image.shape)}, got {actual}: set its size"
            )
        return output.float() / 255 if output.dtype == torch.uint8 else output.float()


def torchvision(name: str, **options: Any) -> TorchvisionTransform:
    """The class ``name`` of ``torchvision.transforms.v2`` with ``options``, applied image by image.

    In a recipe: ``{use: torchvision, name: RandomErasing, p: 0.25}``, with lists for tuples and names for an
    interpolation or a policy.

    >>> torchvision("GaussianBlur", kernel_size=3)(torch.ones(1, 1, 5, 5), CounterRNG.for_samples(
    ...     torch.tensor([0]), torch.tensor([0]), seed=0, transform_index=0)).sum().round()
    tensor(25.)
    """
    import torchvision as package
    from torchvision.transforms import v2

    if name in _UNSUPPORTED:
        raise LimbeckError(f"torchvision's {name} {_UNSUPPORTED[name]}")
    cls = getattr(v2, name, None)
    if not (inspect.isclass(cls) and issubclass(cls, v2.Transform)):
        names = [key for key, c in vars(v2).items() if inspect.isclass(c) and issubclass(c, v2.Transform)]
        similar = suggest_names(name, set(names) - _UNSUPPORTED.keys())
        raise LimbeckError(f"torchvision.transforms.v2 has no transform {name!r}; available: {similar}")
    options = {key: _lists_to_tuples(value) for key, value in sorted(options.items())}
    try:
        transform = _make_transform(cls, options)
    except (TypeError, ValueError) as error:
        raise LimbeckError(f"torchvision's {name} does not take {options}: {_first_line(error)}") from error
    return TorchvisionTransform(name, tuple(options.items()), package.__version__, transform)


def rand_augment(num_ops: int = 2, magnitude: int = 9, num_magnitude_bins: int = 31) -> TorchvisionTransform:
    """RandAugment (Cubuk et al., 2020, https://arxiv.org/abs/1909.13719).

    Args:
        num_ops: number of random operations on each image.
        magnitude: their strength, from 0 to below ``num_magnitude_bins``.
        num_magnitude_bins: number of strengths.
    """
    if num_ops < 1 or not 0 <= magnitude < num_magnitude_bins:
        raise LimbeckError(
            f"rand_augment's num_ops must be at least 1 and magnitude from 0 to below {num_magnitude_bins}, got "
            f"{num_ops} and {magnitude}"
        )
    return torchvision("RandAugment", num_ops=num_ops, magnitude=magnitude, num_magnitude_bins=num_magnitude_bins)


def _make_transform(cls: Any, options: Mapping[str, Any]) -> Any:
    from torchvision.transforms import v2

    enums = {"interpolation": v2.InterpolationMode, "policy": v2.AutoAugmentPolicy}
    return cls(**{k: enums[k](v) if isinstance(v, str) and k in enums else v for k, v in options.items()})


def _lists_to_tuples(value: Any) -> Any:
    return tuple(map(_lists_to_tuples, value)) if isinstance(value, list | tuple) else value


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
