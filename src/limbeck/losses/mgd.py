"""Masked generative distillation (MGD): the teacher's map generated from a masked student map.

Yang et al., MGD, ECCV 2022, https://arxiv.org/abs/2205.01529. Each step masks a fraction λ (0.65) of the positions of
the student's map in all channels; a learned generator (3×3 convolution, ReLU, 3×3 convolution) predicts the teacher's
map, and the loss is the mean squared error (the published code divides the sum by the batch, with a weight of 2e−5). A
1×1 convolution comes first where channels differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.losses._bases import ProjectedFeatureLoss
from limbeck.losses._features import Projection, describe_shapes, require_maps, require_prepared, require_same_features
from limbeck.losses._ops import mean_squared_error, require_interval, upcast


def mgd_loss(student: Tensor, teacher: Tensor, *, mask: Tensor, generator: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over all elements of (teacher − generator(student · mask))².

    Shapes: maps ``[batch, channels, height, width]`` of one size; ``mask`` ``[batch, 1, height, width]``, 0 where a
    position is masked and 1 elsewhere; ``generator`` maps the student's channels to the teacher's.

    >>> import torch
    >>> student, teacher = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.0, 3.0]]]])
    >>> mgd_loss(student, teacher, mask=torch.tensor([[[[1.0, 0.0]]]]), generator=torch.nn.Identity())
    tensor(4.5000)
    """
    require_maps(student, teacher, method="masked generation")
    if mask.shape != (len(student), 1, *student.shape[2:]):
        raise LimbeckError(
            f"the mask of maps {list(student.shape)} must be [batch, 1, height, width], got {list(mask.shape)}"
        )
    generated = upcast(generator(upcast(student) * mask))
    require_same_features(generated, teacher, loss="MGDLoss")
    return mean_squared_error(generated, upcast(teacher).detach())


@final
class MGDLoss(ProjectedFeatureLoss):
    """:func:`mgd_loss` of one layer of student and teacher, by a learned generator.

    Args:
        mask_ratio: λ, the fraction of masked positions, from 0 to below 1; sampled at each step as in dropout.
    """

    paper: ClassVar = "https://arxiv.org/abs/2205.01529"
    compares_positions: ClassVar = False
    fn: ClassVar = staticmethod(mgd_loss)
    settings: ClassVar = ("layer", "mask_ratio")

    def __init__(self, layer: str, *, mask_ratio: float = 0.65, teacher: str | None = None) -> None:
        super().__init__(layer, teacher=teacher)
        require_interval("mask_ratio", mask_ratio, "[0, 1)")
        self.mask_ratio = mask_ratio
        self.generator: Projection | None = None

    def prepare(self, context: LossContext) -> None:
        """Build projection and generator for the features of ``context``."""
        student, teacher = self.features(context)
        require_maps(student, teacher, method="masked generation")
        super().prepare(context)
        width = teacher.shape[1]
        self.generator = Projection(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
            description=describe_shapes(teacher, teacher),
        ).to(upcast(student))  # fmt: skip

    def compare(self, student: Tensor, teacher: Tensor, context: LossContext) -> Tensor:
        noise = torch.rand(len(student), 1, *student.shape[2:], device=student.device, dtype=student.dtype)
        mask = (noise >= self.mask_ratio).to(student)
        return mgd_loss(student, teacher, mask=mask, generator=require_prepared(self.generator, "MGDLoss"))
