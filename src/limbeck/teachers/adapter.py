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

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data import Normalization
from limbeck.teachers.external.external_teacher import ExternalTeacher

__all__ = [
    "UNKNOWN_CLASS_LOGIT",
    "InputMapping",
    "TeacherAdapter",
    "adapt_teacher",
    "match_classes",
    "reorder_classes",
    "resize_images",
]

MissingClasses = Literal["error", "mask"]
UNKNOWN_CLASS_LOGIT: Final = -1e4
"""The logit of a class that a teacher does not know: no probability at any usual temperature, and still finite."""


def resize_images(images: Tensor, size: int) -> Tensor:
    """``[batch, channels, height, width]`` with the shorter side at ``size``, bilinearly, smoothed where they shrink.

    >>> resize_images(torch.ones(1, 3, 32, 48), 64).shape
    torch.Size([1, 3, 64, 96])
    """
    if images.ndim != 4:
        raise LimbeckError(f"only pictures [batch, channels, height, width] can be resized, not {list(images.shape)}")
    height, width = images.shape[2:]
    shorter_side = min(height, width)
    if shorter_side == size:
        return images
    # As torchvision's Resize has it: the longer side is cut down to a whole number of pixels.
    resized_size = (int(size * height / shorter_side), int(size * width / shorter_side))
    return F.interpolate(images, size=resized_size, mode="bilinear", align_corners=False, antialias=size < shorter_side)


def match_classes(
    teacher_classes: Sequence[str], class_names: Sequence[str], *, missing_classes: MissingClasses = "error"
) -> tuple[int, ...]:
    """For each of ``class_names`` its place among ``teacher_classes``, −1 where a teacher does not know it and may not (``mask``).

    Raises:
        LimbeckError: a name that stands twice, or a class of ours that is missing among theirs.

    >>> match_classes(["dog", "cat", "owl"], ["cat", "dog"])
    (1, 0)
    >>> match_classes(["dog"], ["cat", "dog"], missing_classes="mask")
    (-1, 0)
    """
    for name in teacher_classes:
        if list(teacher_classes).count(name) > 1:
            raise LimbeckError(f"the teacher's classes name {name!r} twice, so it cannot be matched: name each once")
    unmatched = [name for name in class_names if name not in teacher_classes]
    if len(unmatched) == len(class_names):
        raise LimbeckError(
            f"the teacher knows none of the classes {', '.join(class_names[:5])}; it knows: "
            f"{suggest_names(class_names[0], teacher_classes)}: give the names as the data has them"
        )
    if unmatched and missing_classes == "error":
        raise LimbeckError(
            f"the teacher does not know the class {unmatched[0]!r} ({len(unmatched)} of {len(class_names)} are missing); near it: "
            f"{suggest_names(unmatched[0], teacher_classes)}: correct the name, or set missing_classes: mask to leave samples of such classes "
            "to others"
        )
    index_of = {name: index for index, name in enumerate(teacher_classes)}
    return tuple(index_of.get(name, -1) for name in class_names)


def reorder_classes(logits: Tensor, class_indices: Sequence[int]) -> Tensor:
    """``[rows, their classes]`` as ``[rows, our classes]``: those at ``class_indices``, and −1e4 below the largest at −1.

    >>> reorder_classes(torch.tensor([[1.0, 2.0, 3.0]]), (2, -1, 0))
    tensor([[ 3.0000e+00, -9.9970e+03,  1.0000e+00]])
    """
    max_index = max(class_indices)
    if logits.ndim != 2 or logits.shape[1] <= max_index:
        raise LimbeckError(
            f"the teacher gave logits of shape {list(logits.shape)}, and its classes are said to be at least "
            f"{max_index + 1}: list its classes as it was trained"
        )
    index = torch.tensor(class_indices, device=logits.device)
    reordered = logits[:, index.clamp(min=0)]
    if min(class_indices) >= 0:
        return reordered
    lowest = logits.amax(dim=1, keepdim=True) + UNKNOWN_CLASS_LOGIT
    return torch.where(index >= 0, reordered, lowest)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class InputMapping:
    """What stands between the batch of a run and one teacher.

    Arguments:
        data_normalization: the normalisation of the batch.
        teacher_normalization: the teacher's; ``None``: the batch's.
        input_size: of the shorter side of its pictures; ``None``: as they come.
        class_indices: from :func:`match_classes`; ``None``: it has the task's classes in their order.
    """

    data_normalization: Normalization
    teacher_normalization: Normalization | None = None
    input_size: int | None = None
    class_indices: tuple[int, ...] | None = None

    def map_inputs(self, input: Tensor, *, pixels: bool = False) -> Tensor:
        """The batch's ``input`` as the teacher takes it; ``pixels`` in 0..1 stay pixels."""
        if self.input_size is None and self.teacher_normalization is None:
            return input
        # On pixels: an average across normalisations would be another one's.
        images = input if pixels else self.data_normalization.invert(input)
        if self.input_size is not None:
            images = resize_images(images, self.input_size)
        return images if pixels else (self.teacher_normalization or self.data_normalization).apply(images)

    def map_logits(self, output: Any) -> Any:
        """What the teacher answered, in the order of the task's classes."""
        if self.class_indices is None:
            return output
        # What a task would read: .logits, ["logits"], the first of a tuple, or the tensor itself.
        logits = getattr(output, "logits", output)
        if isinstance(logits, dict):
            logits = logits.get("logits")
        if isinstance(logits, tuple | list) and logits:
            logits = logits[0]
        if not isinstance(logits, Tensor):
            raise LimbeckError(f"the teacher gave a {type(output).__name__} without logits, so no class can be matched")
        return reorder_classes(logits, self.class_indices)


@final
class TeacherAdapter(nn.Module):
    """A network behind a :class:`InputMapping`: called like any other, it sees and speaks as the run does.

    Its taps go by the network's own places, and its weights are the network's.
    """

    def __init__(self, network: nn.Module, mapping: InputMapping) -> None:
        super().__init__()
        self.module, self.mapping = network, mapping

    def forward(self, input: Tensor) -> Any:
        """The network's answer to ``input`` ``[batch, ...]``, which is normalised for the student."""
        return self.mapping.map_logits(self.module(self.mapping.map_inputs(input)))

    def extra_repr(self) -> str:
        return f"{self.mapping}"


def adapt_teacher(network: nn.Module, mapping: InputMapping) -> nn.Module:
    """``network`` behind ``mapping``; itself where the lens changes nothing. An ``ExternalTeacher`` stays one.

    >>> lens = InputMapping(data_normalization=Normalization((0.5,), (0.5,)), teacher_normalization=Normalization((0.0,), (1.0,)))
    >>> adapt_teacher(nn.Identity(), lens)(torch.tensor([[[[1.0, -1.0]]]]))
    tensor([[[[1., 0.]]]])
    """
    if mapping.input_size is None and mapping.teacher_normalization is None and mapping.class_indices is None:
        return network
    if not isinstance(network, ExternalTeacher):
        return TeacherAdapter(network, mapping)
    if network.input_type == "pixels" and mapping.teacher_normalization is not None:
        raise LimbeckError(f"{network.name} sees pixels, so it has no normalisation: leave normalize away")
    return network.with_input_mapping(mapping)
