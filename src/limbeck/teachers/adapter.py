"""Adapts a teacher with another input size, normalization or class order to the batches and classes of a run.

A batch is normalized for the student. The adapter inverts that normalization, resizes the pixels, applies the teacher's
normalization, and reorders the teacher's classes, which are matched by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data.normalization import InputNormalization, Normalization
from limbeck.teachers.external.external_teacher import ExternalTeacher
from limbeck.utils.logits import find_logits

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
"""Logit, below the largest, of a class that a teacher does not have: finite, and probability 0 at usual
temperatures.
"""


def resize_images(images: Tensor, size: int) -> Tensor:
    """Resize the shorter side of ``[batch, channels, height, width]`` to ``size``, as torchvision's antialiased Resize.

    >>> resize_images(torch.ones(1, 3, 32, 48), 64).shape
    torch.Size([1, 3, 64, 96])
    """
    if images.ndim != 4:
        raise LimbeckError(f"images must be [batch, channels, height, width] to be resized, got {list(images.shape)}")
    height, width = images.shape[2:]
    shorter_side = min(height, width)
    if shorter_side == size:
        return images
    resized_size = (int(size * height / shorter_side), int(size * width / shorter_side))
    return F.interpolate(images, size=resized_size, mode="bilinear", align_corners=False, antialias=size < shorter_side)


def match_classes(
    teacher_classes: Sequence[str], class_names: Sequence[str], *, missing_classes: MissingClasses = "error"
) -> tuple[int, ...]:
    """Index in ``teacher_classes`` of each of ``class_names``; −1 for missing ones, if they may be (``mask``).

    Raises:
        LimbeckError: a name is repeated, or a class is missing.

    >>> match_classes(["dog", "cat", "owl"], ["cat", "dog"])
    (1, 0)
    >>> match_classes(["dog"], ["cat", "dog"], missing_classes="mask")
    (-1, 0)
    """
    index_of = {name: index for index, name in enumerate(teacher_classes)}
    if len(index_of) < len(teacher_classes):
        repeated = next(name for name in teacher_classes if list(teacher_classes).count(name) > 1)
        raise LimbeckError(f"the teacher's class names must be unique, got {repeated!r} twice")
    missing = [name for name in class_names if name not in index_of]
    if len(missing) == len(class_names):
        raise LimbeckError(
            f"the teacher has none of the classes {', '.join(class_names[:5])}; it has: "
            f"{suggest_names(class_names[0], teacher_classes)}: use the class names of the data"
        )
    if missing and missing_classes == "error":
        similar = suggest_names(missing[0], teacher_classes)
        raise LimbeckError(
            f"the teacher does not have the class {missing[0]!r} ({len(missing)} of {len(class_names)} are missing); "
            f"similar: {similar}: correct the name, or set missing_classes: mask to skip samples of missing classes"
        )
    return tuple(index_of.get(name, -1) for name in class_names)


def reorder_classes(logits: Tensor, class_indices: Sequence[int]) -> Tensor:
    """``[rows, teacher classes]`` as ``[rows, classes]`` by ``class_indices``; −1e4 below the largest at −1.

    So are maps ``[batch, teacher classes, height, width]``.

    >>> reorder_classes(torch.tensor([[1.0, 2.0, 3.0]]), (2, -1, 0))
    tensor([[ 3.0000e+00, -9.9970e+03,  1.0000e+00]])
    """
    num_classes = max(class_indices) + 1
    if logits.ndim not in (2, 4):
        raise LimbeckError(
            "classes are matched in logits [batch, classes] or [batch, classes, height, width], got the shape "
            f"{list(logits.shape)}: give a teacher with the classes of the data, and remove class_names"
        )
    if logits.shape[1] < num_classes:
        raise LimbeckError(
            f"the teacher's logits must have at least {num_classes} classes, got the shape {list(logits.shape)}: list "
            "class_names in the order of its training"
        )
    index = torch.tensor(class_indices, device=logits.device)
    reordered = logits[:, index.clamp(min=0)]
    if min(class_indices) >= 0:
        return reordered
    is_known = (index >= 0).reshape(-1, *[1] * (logits.ndim - 2))
    return torch.where(is_known, reordered, logits.amax(dim=1, keepdim=True) + UNKNOWN_CLASS_LOGIT)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class InputMapping:
    """Maps the inputs of a batch to those of a teacher, and its logits to the classes of the task.

    Args:
        data_normalization: normalization of the batch.
        teacher_normalization: normalization of the teacher; ``None``: that of the batch.
        input_size: shorter side of the teacher's images; ``None``: unchanged.
        class_indices: result of :func:`match_classes`; ``None``: unchanged.
    """

    data_normalization: InputNormalization
    teacher_normalization: Normalization | None = None
    input_size: int | None = None
    class_indices: tuple[int, ...] | None = None

    def map_inputs(self, input: Tensor, *, pixels: bool = False) -> Tensor:
        """Inputs of the teacher for normalized ``input``, or for ``pixels`` in 0..1, which stay pixels."""
        if self.input_size is None and self.teacher_normalization is None:
            return input
        images = input if pixels else self.data_normalization.invert(input)
        if self.input_size is not None:
            images = resize_images(images, self.input_size)
        return images if pixels else (self.teacher_normalization or self.data_normalization).apply(images)

    def map_logits(self, output: Any) -> Any:
        """``output`` of the teacher, or its logits in the class order of the task."""
        if self.class_indices is None:
            return output
        if (logits := find_logits(output)) is None:
            raise LimbeckError(f"the teacher must return logits to match classes, got a {type(output).__name__}")
        return reorder_classes(logits, self.class_indices)


@final
class TeacherAdapter(nn.Module):
    """A network with an :class:`InputMapping`. Feature layers and weights keep the names of the network."""

    def __init__(self, network: nn.Module, mapping: InputMapping) -> None:
        super().__init__()
        self.module, self.mapping = network, mapping

    @property
    def wrapped_network(self) -> nn.Module:
        """The network, which layer names and saved weights are relative to; that inside, if it is an adapter too."""
        inner: nn.Module = getattr(self.module, "wrapped_network", self.module)
        return inner

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Output for ``input`` ``[batch, ...]``, normalized for the student; other arguments are passed as they are."""
        return self.mapping.map_logits(self.module(self.mapping.map_inputs(input), *args, **kwargs))

    def extra_repr(self) -> str:
        return f"{self.mapping}"


def adapt_teacher(network: nn.Module, mapping: InputMapping) -> nn.Module:
    """``network`` with ``mapping``; itself where the mapping changes nothing. An ``ExternalTeacher`` stays one.

    >>> data, pixels = Normalization((0.5,), (0.5,)), Normalization((0.0,), (1.0,))
    >>> mapping = InputMapping(data_normalization=data, teacher_normalization=pixels)
    >>> adapt_teacher(nn.Identity(), mapping)(torch.tensor([[[[1.0, -1.0]]]]))
    tensor([[[[1., 0.]]]])
    """
    if mapping.input_size is None and mapping.teacher_normalization is None and mapping.class_indices is None:
        return network
    if not isinstance(network, ExternalTeacher):
        return TeacherAdapter(network, mapping)
    if network.input_type == "pixels" and mapping.teacher_normalization is not None:
        raise LimbeckError(f"{network.name} takes pixels, which have no normalization: remove normalize")
    return network.with_input_mapping(mapping)
