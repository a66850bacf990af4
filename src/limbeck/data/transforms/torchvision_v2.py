"""Any transform of ``torchvision.transforms.v2`` that keeps a picture's shape, under a generator of its own.

torchvision draws from torch's global generator. Here it is seeded for each picture by that picture's own draws and put
back afterwards, so that a view is still a pure function of (seed, sample, view).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, nearest
from limbeck.data.counter_rng import Draws

__all__ = ["Torchvision", "rand_augment", "torchvision"]

_INSTEAD = {"MixUp": "take mixup, whose partners come from all samples", "CutMix": "take cutmix, whose partners do too"}
_NESTED = {"Compose", "Lambda", "RandomApply", "RandomChoice", "RandomOrder", "Transform"}
_SEVERAL = {"FiveCrop", "TenCrop"}
_BYTES = {"JPEG"}


@final
@dataclass(frozen=True, slots=True)
class Torchvision:
    """See :func:`torchvision`; ``version`` is torchvision's, since another may draw otherwise."""

    name: str
    options: tuple[tuple[str, Any], ...]
    version: str
    made: Any = field(repr=False, compare=False)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        own = torch.default_generator
        before = own.get_state()
        try:
            shown = [self._one(image, seed) for image, seed in zip(images, draws.seeds(), strict=True)]
        finally:
            own.set_state(before)
        return torch.stack(shown) if shown else images

    def _one(self, image: Tensor, seed: int) -> Tensor:
        # Only the CPU's generator: torch.manual_seed would seed every GPU too, and nothing is drawn there.
        torch.default_generator.manual_seed(seed)
        given = image.mul(255).round().byte() if self.name in _BYTES else image
        try:
            shown = self.made(given)
        except (TypeError, ValueError, RuntimeError) as error:
            text = next(iter(str(error).splitlines()), type(error).__name__)
            raise LimbeckError(
                f"torchvision's {self.name} cannot change a picture {list(image.shape)}: {text}"
            ) from error
        if not isinstance(shown, Tensor) or shown.shape != image.shape:
            found = list(shown.shape) if isinstance(shown, Tensor) else type(shown).__name__
            raise LimbeckError(
                f"torchvision's {self.name} made {found} of a picture {list(image.shape)}, and a view keeps its shape: "
                "set its size to the picture's, or leave it out"
            )
        return shown.float() / 255 if shown.dtype == torch.uint8 else shown.float()


def torchvision(name: str, **options: Any) -> Torchvision:
    """The class ``name`` of ``torchvision.transforms.v2``, made with ``options``.

    In a recipe: ``{use: torchvision, name: RandomErasing, p: 0.25}``. Lists stand for tuples, and an interpolation or a
    policy is its name in text. It works picture by picture, in tens or hundreds of microseconds each.

    >>> torchvision("GaussianBlur", kernel_size=3)(torch.ones(1, 1, 5, 5), Draws.of(
    ...     torch.tensor([0]), torch.tensor([0]), seed=0, place=0)).sum().round()
    tensor(25.)
    """
    import torchvision as package
    from torchvision.transforms import v2

    known = {
        key: each
        for key, each in vars(v2).items()
        if inspect.isclass(each) and issubclass(each, v2.Transform) and key not in _NESTED | _SEVERAL | _INSTEAD.keys()
    }
    if name in _INSTEAD:
        raise LimbeckError(f"torchvision's {name} mixes within the batch: {_INSTEAD[name]}")
    if name in _SEVERAL or name in _NESTED:
        what = "makes several pictures of one" if name in _SEVERAL else "is made of other transforms or functions"
        raise LimbeckError(f"torchvision's {name} {what}, and a view is one picture: list transforms one by one")
    if name not in known:
        raise LimbeckError(f"torchvision.transforms.v2 has no transform {name!r}; there are: {nearest(name, known)}")
    try:
        made = known[name](**{key: _as_v2(key, value, v2) for key, value in options.items()})
    except (TypeError, ValueError) as error:
        text = next(iter(str(error).splitlines()), type(error).__name__)
        raise LimbeckError(f"torchvision's {name} cannot be made with {options}: {text}") from error
    return Torchvision(
        name, tuple(sorted((key, _settled(value)) for key, value in options.items())), package.__version__, made
    )


def rand_augment(num_ops: int = 2, magnitude: int = 9, num_magnitude_bins: int = 31) -> Torchvision:
    """RandAugment (Cubuk et al., 2020, https://arxiv.org/abs/1909.13719): so many random changes of one strength.

    Arguments:
        num_ops: changes of each picture.
        magnitude: their strength, from 0 to below ``num_magnitude_bins``.
        num_magnitude_bins: how many strengths there are.
    """
    if num_ops < 1 or not 0 <= magnitude < num_magnitude_bins:
        raise LimbeckError(
            f"rand_augment makes at least 1 change at a magnitude from 0 to below {num_magnitude_bins} (its "
            f"num_magnitude_bins), not {num_ops} at {magnitude}"
        )
    return torchvision("RandAugment", num_ops=num_ops, magnitude=magnitude, num_magnitude_bins=num_magnitude_bins)


def _as_v2(key: str, value: Any, v2: Any) -> Any:
    """An option as torchvision takes it, where a recipe can only write text or a list."""
    if isinstance(value, str) and key == "interpolation":
        return v2.InterpolationMode(value)
    if isinstance(value, str) and key == "policy":
        return v2.AutoAugmentPolicy(value)
    return _settled(value)


def _settled(value: Any) -> Any:
    return tuple(map(_settled, value)) if isinstance(value, list | tuple) else value
