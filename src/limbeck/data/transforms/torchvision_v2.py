"""Any transform of ``torchvision.transforms.v2`` that keeps an image's shape, under a generator of its own.

torchvision draws from torch's global generator. Here it is seeded for each image by that image's own draws and put
back afterwards, so that a view is still a pure function of (seed, sample, view).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data.counter_rng import CounterRNG

__all__ = ["TorchvisionTransform", "rand_augment", "torchvision"]

_ALTERNATIVES = {
    "MixUp": "take mixup, whose partners come from all samples",
    "CutMix": "take cutmix, whose partners do too",
}
_CONTAINERS = {"Compose", "Lambda", "RandomApply", "RandomChoice", "RandomOrder", "Transform"}
_MULTI_OUTPUT = {"FiveCrop", "TenCrop"}
_UINT8_ONLY = {"JPEG"}


@final
@dataclass(frozen=True, slots=True)
class TorchvisionTransform:
    """See :func:`torchvision`; ``version`` is torchvision's, since another may draw otherwise."""

    name: str
    options: tuple[tuple[str, Any], ...]
    version: str
    transform: Any = field(repr=False, compare=False)

    def __call__(self, images: Tensor, rng: CounterRNG) -> Tensor:
        generator = torch.default_generator
        state = generator.get_state()
        try:
            outputs = [self._apply(image, seed) for image, seed in zip(images, rng.seeds(), strict=True)]
        finally:
            generator.set_state(state)
        return torch.stack(outputs) if outputs else images

    def _apply(self, image: Tensor, seed: int) -> Tensor:
        # Only the CPU's generator: torch.manual_seed would seed every GPU too, and nothing is drawn there.
        torch.default_generator.manual_seed(seed)
        input_image = image.mul(255).round().byte() if self.name in _UINT8_ONLY else image
        try:
            output = self.transform(input_image)
        except (TypeError, ValueError, RuntimeError) as error:
            text = next(iter(str(error).splitlines()), type(error).__name__)
            raise LimbeckError(
                f"torchvision's {self.name} cannot change an image {list(image.shape)}: {text}"
            ) from error
        if not isinstance(output, Tensor) or output.shape != image.shape:
            got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise LimbeckError(
                f"torchvision's {self.name} made {got} of an image {list(image.shape)}, and a view keeps its shape: "
                "set its size to the image's, or leave it out"
            )
        return output.float() / 255 if output.dtype == torch.uint8 else output.float()


def torchvision(name: str, **options: Any) -> TorchvisionTransform:
    """The class ``name`` of ``torchvision.transforms.v2``, made with ``options``.

    In a recipe: ``{use: torchvision, name: RandomErasing, p: 0.25}``. Lists stand for tuples, and an interpolation or a
    policy is its name in text. It works image by image, in tens or hundreds of microseconds each.

    >>> torchvision("GaussianBlur", kernel_size=3)(torch.ones(1, 1, 5, 5), CounterRNG.for_samples(
    ...     torch.tensor([0]), torch.tensor([0]), seed=0, transform_index=0)).sum().round()
    tensor(25.)
    """
    import torchvision as package
    from torchvision.transforms import v2

    transform_classes = {
        key: cls
        for key, cls in vars(v2).items()
        if inspect.isclass(cls)
        and issubclass(cls, v2.Transform)
        and key not in _CONTAINERS | _MULTI_OUTPUT | _ALTERNATIVES.keys()
    }
    if name in _ALTERNATIVES:
        raise LimbeckError(f"torchvision's {name} mixes within the batch: {_ALTERNATIVES[name]}")
    if name in _MULTI_OUTPUT or name in _CONTAINERS:
        reason = "makes several images of one" if name in _MULTI_OUTPUT else "is made of other transforms or functions"
        raise LimbeckError(f"torchvision's {name} {reason}, and a view is one image: list transforms one by one")
    if name not in transform_classes:
        raise LimbeckError(
            f"torchvision.transforms.v2 has no transform {name!r}; there are: {suggest_names(name, transform_classes)}"
        )
    try:
        transform = transform_classes[name](**{key: _to_v2_option(key, value, v2) for key, value in options.items()})
    except (TypeError, ValueError) as error:
        text = next(iter(str(error).splitlines()), type(error).__name__)
        raise LimbeckError(f"torchvision's {name} cannot be made with {options}: {text}") from error
    return TorchvisionTransform(
        name,
        tuple(sorted((key, _lists_to_tuples(value)) for key, value in options.items())),
        package.__version__,
        transform,
    )


def rand_augment(num_ops: int = 2, magnitude: int = 9, num_magnitude_bins: int = 31) -> TorchvisionTransform:
    """RandAugment (Cubuk et al., 2020, https://arxiv.org/abs/1909.13719): so many random changes of one strength.

    Arguments:
        num_ops: changes of each image.
        magnitude: their strength, from 0 to below ``num_magnitude_bins``.
        num_magnitude_bins: how many strengths there are.
    """
    if num_ops < 1 or not 0 <= magnitude < num_magnitude_bins:
        raise LimbeckError(
            f"rand_augment makes at least 1 change at a magnitude from 0 to below {num_magnitude_bins} (its "
            f"num_magnitude_bins), not {num_ops} at {magnitude}"
        )
    return torchvision("RandAugment", num_ops=num_ops, magnitude=magnitude, num_magnitude_bins=num_magnitude_bins)


def _to_v2_option(key: str, value: Any, v2: Any) -> Any:
    """An option as torchvision takes it, where a recipe can only write text or a list."""
    if isinstance(value, str) and key == "interpolation":
        return v2.InterpolationMode(value)
    if isinstance(value, str) and key == "policy":
        return v2.AutoAugmentPolicy(value)
    return _lists_to_tuples(value)


def _lists_to_tuples(value: Any) -> Any:
    return tuple(map(_lists_to_tuples, value)) if isinstance(value, list | tuple) else value
