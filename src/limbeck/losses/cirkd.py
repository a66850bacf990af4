"""Cross-image relational distillation (CIRKD): similarities of pixels to pixels and regions of other images.

Yang et al., CVPR 2022, https://arxiv.org/abs/2204.06986. Embeddings are the features of pixels at length 1. A relation
is the softmax of the cosines of one pixel to a set of embeddings, divided by τ; each loss is the mean over pixels of
KL(teacher ‖ student) of two relations:

    batch    to all pixels of one image of the batch, the mean over all pairs of images
    pixel    to pixels of earlier images, from a memory of the teacher's pixels by class
    region   to the mean embedding of a class in earlier images, from a memory by class
    loss     batch_weight · batch + pixel_weight · pixel + region_weight · region

For both memories, a learned head (1×1 convolution, BatchNorm, ReLU, 1×1 convolution) maps the student to the teacher's
channels. Memories hold embeddings of the frozen teacher, which do not age. Each step stores up to 16 random pixels and
one region of each class and image, and compares with random stored embeddings, equally many of each class that has any.
The class defaults are the published settings, except for the pixels in the memory (20,000 of each class). Choices:

- Stored pixels of a class are pixels of that class; the published code draws them from the whole image by mistake.
- Memories start empty; in the published code they start with random directions.
- The teacher comes first in the KL divergence, as in the published code.
"""

from __future__ import annotations

from typing import ClassVar, Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._bases import format_settings
from limbeck.losses._class_memory import ClassMemory, sample_in_groups
from limbeck.losses._features import (
    ChannelNorm,
    Projection,
    describe_shapes,
    match_size,
    pool_patches,
    require_maps,
    require_prepared,
    unit_pixels,
)
from limbeck.losses._masks import require_mask, resize_mask
from limbeck.losses._ops import require_interval, require_same_shape, upcast
from limbeck.losses._relations import relation_kl

_PIXELS_STORED: Final = 16
"""Pixels of each class and image that are stored in one step, as published."""


def cirkd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 0.1, patch_size: int = 1) -> Tensor:
    """Mean over pairs of images and pixels of KL(teacher ‖ student) between softmaxed cosines to the other's pixels.

    Shapes: ``[batch, channels, height, width]`` each; channels and sizes may differ, the larger map is average-pooled
    to the smaller, then patches of ``patch_size``² pixels are averaged. In nats.

    >>> student = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # cosines (1, 0) and (0, 1)
    >>> cirkd_loss(student, torch.ones(1, 3, 1, 2), temperature=1.0)  # −½ ln(4 · 0.7311 · 0.2689)
    tensor(0.1201)
    """
    require_maps(student, teacher, method="cross-image distillation")
    student, teacher = match_size(upcast(student), upcast(teacher).detach())
    student, teacher = (unit_pixels(pool_patches(maps, patch_size)) for maps in (student, teacher))
    student_rows, teacher_rows = (pixels.flatten(0, 1) for pixels in (student, teacher))
    # Every pixel of the batch, to the pixels of one image after the other.
    losses = [
        relation_kl(student_rows, set_s, teacher_rows, set_t, temperature)
        for set_s, set_t in zip(student, teacher, strict=True)
    ]
    return torch.stack(losses).sum() / (len(losses) * len(student_rows)) if len(student_rows) else student.sum()


def cirkd_memory_loss(student: Tensor, teacher: Tensor, memory: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Mean over rows of KL(teacher ‖ student) between softmaxed cosines to the embeddings of ``memory``.

    Shapes: ``student``, ``teacher`` ``[rows, width]`` and ``memory`` ``[stored, width]``, of length 1. Zero without
    rows, and with an empty memory. In nats.

    >>> east, both = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]).sqrt()
    >>> cirkd_memory_loss(east, both, torch.eye(2), temperature=1.0)
    tensor(0.1201)
    """
    require_same_shape(student, teacher, name="embeddings", hint="project the student's to the teacher's width")
    student = upcast(student)
    teacher, memory = teacher.detach().to(student), memory.detach().to(student)
    return relation_kl(student, memory, teacher, memory, temperature) / max(len(student), 1)


@final
class CIRKDLoss(nn.Module, Loss):
    """:func:`cirkd_loss` of one layer, and :func:`cirkd_memory_loss` with the mask of ``sample_targets``.

    Args:
        layer: name of the layer, the same for student and teacher; the paper takes the input of the classifier.
        temperature: τ, what cosines are divided by, above zero.
        patch_size: height and width of the patches that are averaged for the relations within the batch.
        batch_weight: weight of the relations within the batch.
        pixel_weight: weight of the relations to stored pixels.
        region_weight: weight of the relations to stored regions. With both at 0 nothing is stored and learned.
        pixel_memory_size: stored pixels of each class.
        region_memory_size: stored regions of each class.
        num_pixels: stored pixels that one step compares with, of all classes together.
        num_regions: stored regions that one step compares with, of all classes together.
        teacher: name of the teacher; ``None``: the ensemble of all.

    Memories are buffers, updated in training mode only. With several processes each stores the embeddings of all, so
    their memories are equal; relations within the batch are those of the local batch.
    """

    knowledge: ClassVar = "relation"
    layer_settings: ClassVar = ("layer",)
    paper: ClassVar = "https://arxiv.org/abs/2204.06986"
    needs_target: ClassVar = True
    fn: ClassVar = staticmethod(cirkd_loss)

    def __init__(
        self, layer: str, *, temperature: float = 0.1, patch_size: int = 1, batch_weight: float = 1.0,
        pixel_weight: float = 0.1, region_weight: float = 0.1, pixel_memory_size: int = 2000,
        region_memory_size: int = 2000, num_pixels: int = 4096, num_regions: int = 1024, teacher: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        require_interval("temperature", temperature, "(0, inf)")
        self.layer, self.temperature, self.patch_size, self.teacher = layer, temperature, patch_size, teacher
        self.batch_weight, self.pixel_weight, self.region_weight = batch_weight, pixel_weight, region_weight
        self.pixel_memory_size, self.region_memory_size = pixel_memory_size, region_memory_size
        self.num_pixels, self.num_regions = num_pixels, num_regions
        for name in ("batch_weight", "pixel_weight", "region_weight"):
            require_interval(name, getattr(self, name), "[0, inf)")
        for name in ("patch_size", "pixel_memory_size", "region_memory_size", "num_pixels", "num_regions"):
            require_interval(name, getattr(self, name), "[1, inf)")
        if not batch_weight + pixel_weight + region_weight:
            raise LimbeckError("one of batch_weight, pixel_weight and region_weight must be above 0, got 0 for each")
        self.head: Projection | None = None
        self.pixel_memory: ClassMemory | None = None
        self.region_memory: ClassMemory | None = None

    @property
    def uses_memory(self) -> bool:
        """Whether embeddings are stored, for which the loss needs masks."""
        return self.pixel_weight > 0 or self.region_weight > 0

    def prepare(self, context: LossContext) -> None:
        """Build the head and the memories for the features of ``context``."""
        student, teacher = self._maps(context)
        if not self.uses_memory:
            return
        width = teacher.shape[1]
        self.head = Projection(
            nn.Conv2d(student.shape[1], width, 1, bias=False), ChannelNorm(width), nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False), description=describe_shapes(student, teacher),
        ).to(student)  # fmt: skip
        classes, reference = context.student.require_logits().shape[1], student.new_zeros(0, width)
        if self.pixel_weight > 0:
            self.pixel_memory = ClassMemory(classes=classes, size=self.pixel_memory_size, reference=reference)
        if self.region_weight > 0:
            self.region_memory = ClassMemory(classes=classes, size=self.region_memory_size, reference=reference)

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context; in training mode it updates the memories first."""
        student, teacher = self._maps(context)
        losses = []
        if self.batch_weight > 0:
            loss = cirkd_loss(student, teacher, temperature=self.temperature, patch_size=self.patch_size)
            losses.append(self.batch_weight * loss)
        if self.uses_memory:
            mask = resize_mask(
                require_mask(context, self.teacher), (student.shape[2], student.shape[3]), batch=len(student)
            )
            losses += self._memory_losses(student, teacher, mask.to(student.device))
        return torch.stack(losses).sum()

    def extra_repr(self) -> str:
        return format_settings(
            self, "layer", "temperature", "patch_size", "batch_weight", "pixel_weight", "region_weight",
            "pixel_memory_size", "region_memory_size", "num_pixels", "num_regions",
        )  # fmt: skip

    def _maps(self, context: LossContext) -> tuple[Tensor, Tensor]:
        """The features of student and teacher at one size, the teacher's without gradients."""
        student, teacher = (outputs.feature(self.layer) for outputs in context.pair(self.teacher))
        require_maps(student, teacher, method="cross-image distillation")
        return match_size(upcast(student), upcast(teacher).detach())

    def _memory_losses(self, student: Tensor, teacher: Tensor, mask: Tensor) -> list[Tensor]:
        has_class = (mask >= 0).flatten(1)
        embedded = upcast(require_prepared(self.head, "CIRKDLoss")(student))
        student_rows, teacher_rows = (unit_pixels(maps)[has_class] for maps in (embedded, teacher))
        if self.training:
            images = torch.arange(len(mask), device=mask.device)[:, None].expand_as(has_class)
            self._store(teacher_rows, mask.flatten(1)[has_class], images[has_class])
        losses = []
        for memory, weight, count in (
            (self.pixel_memory, self.pixel_weight, self.num_pixels),
            (self.region_memory, self.region_weight, self.num_regions),
        ):
            if memory is not None:
                stored = memory.sample(count // len(memory.num_written) + 1)
                losses.append(
                    weight * cirkd_memory_loss(student_rows, teacher_rows, stored, temperature=self.temperature)
                )
        return losses

    @torch.no_grad()
    def _store(self, rows: Tensor, classes: Tensor, images: Tensor) -> None:
        """Store pixels and regions of embeddings ``[rows, width]`` with their class and image, ``[rows]`` each."""
        if self.pixel_memory is not None:
            num_classes = len(self.pixel_memory.num_written)
            is_stored = sample_in_groups(images * num_classes + classes, _PIXELS_STORED)
            self.pixel_memory.add(rows[is_stored], classes[is_stored])
        if self.region_memory is not None:
            num_classes = len(self.region_memory.num_written)
            groups, inverse = torch.unique(images * num_classes + classes, return_inverse=True)
            sums = rows.new_zeros(len(groups), rows.shape[1]).index_add(0, inverse, rows)
            self.region_memory.add(F.normalize(sums, dim=1), groups % num_classes)
