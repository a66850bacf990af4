"""A teacher in its own terms: pictures of its size and normalisation, and its own classes in its own order.

All networks of a run are shown the same batch, normalised for the student. For a teacher that was trained otherwise the
normalisation is taken off, the pixels are resized, its own normalisation is put on, and what it answers is put into the
order of the task's classes, which are matched by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError, nearest
from limbeck.data import Normalization
from limbeck.teachers.external.external_teacher import Foreign

__all__ = ["IMPOSSIBLE", "Adapter", "Lens", "adapted", "by_name", "in_order", "resized"]

Missing = Literal["refuse", "mask"]
IMPOSSIBLE: Final = -1e4
"""The logit of a class that a teacher does not know: no probability at any usual temperature, and still finite."""


def resized(pixels: Tensor, size: int) -> Tensor:
    """``[batch, channels, height, width]`` with the shorter side at ``size``, bilinearly, smoothed where they shrink.

    >>> resized(torch.ones(1, 3, 32, 48), 64).shape
    torch.Size([1, 3, 64, 96])
    """
    if pixels.ndim != 4:
        raise LimbeckError(f"only pictures [batch, channels, height, width] can be resized, not {list(pixels.shape)}")
    height, width = pixels.shape[2:]
    short = min(height, width)
    if short == size:
        return pixels
    # As torchvision's Resize has it: the longer side is cut down to a whole number of pixels.
    wanted = (int(size * height / short), int(size * width / short))
    return F.interpolate(pixels, size=wanted, mode="bilinear", align_corners=False, antialias=size < short)


def by_name(theirs: Sequence[str], ours: Sequence[str], *, missing: Missing = "refuse") -> tuple[int, ...]:
    """For each of ``ours`` its place among ``theirs``, −1 where a teacher does not know it and may not (``mask``).

    Raises:
        LimbeckError: a name that stands twice, or a class of ours that is missing among theirs.

    >>> by_name(["dog", "cat", "owl"], ["cat", "dog"])
    (1, 0)
    >>> by_name(["dog"], ["cat", "dog"], missing="mask")
    (-1, 0)
    """
    for name in theirs:
        if list(theirs).count(name) > 1:
            raise LimbeckError(f"the teacher's classes name {name!r} twice, so it cannot be matched: name each once")
    lacking = [name for name in ours if name not in theirs]
    if len(lacking) == len(ours):
        raise LimbeckError(
            f"the teacher knows none of the classes {', '.join(ours[:5])}; it knows: "
            f"{nearest(ours[0], theirs)}: give the names as the data has them"
        )
    if lacking and missing == "refuse":
        raise LimbeckError(
            f"the teacher does not know the class {lacking[0]!r} ({len(lacking)} of {len(ours)} are missing); near it: "
            f"{nearest(lacking[0], theirs)}: correct the name, or set missing: mask to leave samples of such classes "
            "to others"
        )
    places = {name: place for place, name in enumerate(theirs)}
    return tuple(places.get(name, -1) for name in ours)


def in_order(logits: Tensor, places: Sequence[int]) -> Tensor:
    """``[rows, their classes]`` as ``[rows, our classes]``: those at ``places``, and −1e4 below the largest at −1.

    >>> in_order(torch.tensor([[1.0, 2.0, 3.0]]), (2, -1, 0))
    tensor([[ 3.0000e+00, -9.9970e+03,  1.0000e+00]])
    """
    most = max(places)
    if logits.ndim != 2 or logits.shape[1] <= most:
        raise LimbeckError(
            f"the teacher gave logits of shape {list(logits.shape)}, and its classes are said to be at least "
            f"{most + 1}: list its classes as it was trained"
        )
    at = torch.tensor(places, device=logits.device)
    known = logits[:, at.clamp(min=0)]
    if min(places) >= 0:
        return known
    lowest = logits.amax(dim=1, keepdim=True) + IMPOSSIBLE
    return torch.where(at >= 0, known, lowest)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lens:
    """What stands between the batch of a run and one teacher.

    Arguments:
        given: the normalisation of the batch.
        wanted: the teacher's; ``None``: the batch's.
        size: of the shorter side of its pictures; ``None``: as they come.
        places: from :func:`by_name`; ``None``: it has the task's classes in their order.
    """

    given: Normalization
    wanted: Normalization | None = None
    size: int | None = None
    places: tuple[int, ...] | None = None

    def pictures(self, input: Tensor, *, pixels: bool = False) -> Tensor:
        """The batch's ``input`` as the teacher takes it; ``pixels`` in 0..1 stay pixels."""
        if self.size is None and self.wanted is None:
            return input
        # On pixels: an average across normalisations would be another one's.
        plain = input if pixels else self.given.undo(input)
        if self.size is not None:
            plain = resized(plain, self.size)
        return plain if pixels else (self.wanted or self.given).apply(plain)

    def logits(self, said: Any) -> Any:
        """What the teacher answered, in the order of the task's classes."""
        if self.places is None:
            return said
        # What a task would read: .logits, ["logits"], the first of a tuple, or the tensor itself.
        found = getattr(said, "logits", said)
        if isinstance(found, dict):
            found = found.get("logits")
        if isinstance(found, tuple | list) and found:
            found = found[0]
        if not isinstance(found, Tensor):
            raise LimbeckError(f"the teacher gave a {type(said).__name__} without logits, so no class can be matched")
        return in_order(found, self.places)


@final
class Adapter(nn.Module):
    """A network behind a :class:`Lens`: called like any other, it sees and speaks as the run does.

    Its taps go by the network's own places, and its weights are the network's.
    """

    def __init__(self, network: nn.Module, lens: Lens) -> None:
        super().__init__()
        self.module, self.lens = network, lens

    def forward(self, input: Tensor) -> Any:
        """The network's answer to ``input`` ``[batch, ...]``, which is normalised for the student."""
        return self.lens.logits(self.module(self.lens.pictures(input)))

    def extra_repr(self) -> str:
        return f"{self.lens}"


def adapted(network: nn.Module, lens: Lens) -> nn.Module:
    """``network`` behind ``lens``; itself where the lens changes nothing. A ``Foreign`` one stays one.

    >>> lens = Lens(given=Normalization((0.5,), (0.5,)), wanted=Normalization((0.0,), (1.0,)))
    >>> adapted(nn.Identity(), lens)(torch.tensor([[[[1.0, -1.0]]]]))
    tensor([[[[1., 0.]]]])
    """
    if lens.size is None and lens.wanted is None and lens.places is None:
        return network
    if not isinstance(network, Foreign):
        return Adapter(network, lens)
    if network.sees == "pixels" and lens.wanted is not None:
        raise LimbeckError(f"{network.called} sees pixels, so it has no normalisation: leave normalize away")
    return network.behind(lens)
