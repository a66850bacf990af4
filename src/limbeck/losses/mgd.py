"""Masked generative distillation (MGD): the teacher's map generated from a masked student map.

Yang et al., MGD, ECCV 2022, https://arxiv.org/abs/2205.01529. Each step masks a share λ (0.65) of the positions of
the student's map in all channels; a learned generator (3×3 convolution, ReLU, 3×3 convolution) predicts the teacher's
map, and the loss is the mean squared error. A 1×1 convolution comes first where channels differ.

The published code sums and divides by the batch, which depends on the map size (its weight is 2e−5); this is the
mean over all elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import (
    DescribedSequential,
    IdentityProjection,
    Projection,
    describe_shapes,
    feature_pair,
    format_settings,
    make_projection,
    project_pair,
    require_maps,
    require_prepared,
)
from limbeck.losses._ops import mean_squared_error, require_same_shape, upcast

__all__ = ["MGDLoss", "mgd_loss"]

_SHAPE_HINT = "the class MGDLoss projects unequal channels and pools unequal maps; the batch must be equal"


def mgd_loss(student: Tensor, teacher: Tensor, *, mask: Tensor, generator: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over all elements of (teacher − generator(student · mask))².

    Shapes: maps ``[batch, channels, height, width]`` of one size; ``mask`` ``[batch, 1, height, width]``, 1 where a
    position is kept and 0 where it is masked; ``generator`` turns the student's channels into the teacher's.

    >>> import torch
    >>> student, teacher = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.0, 3.0]]]])
    >>> mgd_loss(student, teacher, mask=torch.tensor([[[[1.0, 0.0]]]]), generator=torch.nn.Identity())
    tensor(4.5000)
    """
    require_maps(student, teacher, method="masked generation")
    if mask.shape != (len(student), 1, *student.shape[2:]):
        raise LimbeckError(
            f"the mask of maps {list(student.shape)} is [batch, 1, height, width], and its shape is {list(mask.shape)}"
        )
    generated = upcast(generator(upcast(student) * mask))
    require_same_shape(generated, teacher, name="generated maps", hint=_SHAPE_HINT)
    return mean_squared_error(generated, upcast(teacher).detach())


@final
class MGDLoss(nn.Module, Loss):
    """:func:`mgd_loss` of one layer of student and teacher, by a learned generator.

    Args:
        layer: name of the layer, the same for student and teacher.
        mask_ratio: λ, the share of masked positions, from 0 to below 1; sampled at each step as in dropout.
        teacher: name of the teacher; ``None``: the ensemble of all.

    >>> from limbeck.testing import make_context
    >>> context, loss = make_context(teacher_feature_shapes={"mid": (6, 4, 4)}), MGDLoss("mid")
    >>> loss.prepare(context)
    >>> sum(parameter.numel() for parameter in loss.parameters())  # 8·6 + 6, and 2 · (6·6·9 + 6)
    714
    """

    knowledge: ClassVar = "feature"
    paper: ClassVar = "https://arxiv.org/abs/2205.01529"

    def __init__(self, layer: str, *, mask_ratio: float = 0.65, teacher: str | None = None) -> None:
        super().__init__()
        if not 0 <= mask_ratio < 1:
            raise LimbeckError(f"the share of hidden positions is from 0 to below 1, and here it is {mask_ratio}")
        self.layer, self.mask_ratio, self.teacher = layer, mask_ratio, teacher
        self.projection: Projection | IdentityProjection | None = None
        self.generator: DescribedSequential | None = None

    def prepare(self, context: LossContext) -> None:
        """Shape projection and generator by the features of ``context``."""
        student, teacher = feature_pair(self, context)
        require_maps(student, teacher, method="masked generation")
        self.projection = make_projection(student, teacher)
        width = teacher.shape[1]
        generator = DescribedSequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
            description=describe_shapes(teacher, teacher),
        )  # fmt: skip
        self.generator = generator.to(upcast(student))

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        generator = require_prepared(self.generator, "MGDLoss")
        student, teacher = project_pair(self.projection, *feature_pair(self, context), name="MGDLoss")
        noise = torch.rand(len(student), 1, *student.shape[2:], device=student.device, dtype=student.dtype)
        mask = (noise >= self.mask_ratio).to(student)
        return mgd_loss(student, teacher, mask=mask, generator=generator)

    def extra_repr(self) -> str:
        return format_settings(self, "layer", "mask_ratio")
