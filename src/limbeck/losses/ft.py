"""Factor transfer (FT): maps of the teacher's and the student's factors.

Kim et al., NeurIPS 2018, https://arxiv.org/abs/1802.04977. A paraphraser, an autoencoder of the teacher's map with half
as many channels inside, extracts the teacher's factor; a translator extracts the student's. Both are
three 3×3 convolutions with leaky ReLUs (0.1), the paraphraser's decoder has three transposed ones.

Each factor becomes one map, the mean over channels of f², flattened and divided by its L2 norm; the loss is the mean
absolute difference. So does widely used code, with a usual weight of 200; the paper normalizes
the factor and keeps its channels.

The paper trains the paraphraser first, by its reconstruction error, and freezes it. Here it is trained together with
the
student: the weighted reconstruction error has a gradient to the paraphraser only, the difference of the factors to
translator and student only.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import (
    DescribedSequential,
    attention_map,
    describe_shapes,
    feature_pair,
    format_settings,
    match_size,
    require_maps,
    require_prepared,
)
from limbeck.losses._ops import mean_squared_error, upcast

__all__ = ["FTLoss", "ft_loss"]


def ft_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over batch and positions of the absolute difference of the two L2-normalized maps of mean f².

    Shapes: ``[batch, channels, height, width]`` each, the factors; channels may differ, and the larger map is
    average-pooled to the smaller. Zero where the maps are proportional.

    >>> import torch
    >>> ft_loss(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0]]]]))
    tensor(0.5000)
    """
    require_maps(student, teacher, method="factor transfer")
    student, teacher = match_size(upcast(student), upcast(teacher).detach())
    if len(student) != len(teacher):
        raise LimbeckError(
            f"factors of {len(student)} and {len(teacher)} samples cannot be compared: the batch must be equal"
        )
    difference = attention_map(student) - attention_map(teacher)
    return difference.abs().sum() / max(difference.numel(), 1)


@final
class FTLoss(nn.Module, Loss):
    """:func:`ft_loss` of one layer of student and teacher, plus the reconstruction error by which the paraphraser
    learns.

    Args:
        layer: name of the layer, the same for student and teacher.
        rate: channels of a factor over channels of the teacher, above 0 and up to 1.
        reconstruction_weight: the weight of the reconstruction within the term. At its default and the usual weight of
            200 for the term, the paraphraser learns at a weight of 1, as it does by itself in the paper.
        teacher: name of the teacher; ``None``: the ensemble of all.

    >>> from limbeck.testing import make_context
    >>> context, loss = make_context(teacher_feature_shapes={"mid": (6, 4, 4)}), FTLoss("mid")
    >>> loss.prepare(context)
    >>> print(loss.paraphraser.description, "and", loss.translator.description)
    6 → 3 and 8 → 3
    """

    knowledge: ClassVar = "feature"
    paper: ClassVar = "https://arxiv.org/abs/1802.04977"

    def __init__(
        self, layer: str, *, rate: float = 0.5, reconstruction_weight: float = 0.005, teacher: str | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        if not 0 < rate <= 1:
            raise LimbeckError(f"a factor has above 0 and up to 1 times the teacher's channels, and here {rate}")
        if not 0 < reconstruction_weight < math.inf:
            raise LimbeckError(
                f"the paraphraser learns by its weight, a number above zero, and here it is {reconstruction_weight}"
            )
        self.layer, self.rate, self.reconstruction_weight, self.teacher = layer, rate, reconstruction_weight, teacher
        self.paraphraser: DescribedSequential | None = None
        self.decoder: DescribedSequential | None = None
        self.translator: DescribedSequential | None = None

    def prepare(self, context: LossContext) -> None:
        """Shape paraphraser and translator by the features of ``context``."""
        student, teacher = map(upcast, feature_pair(self, context))
        require_maps(student, teacher, method="factor transfer")
        student_channels, teacher_channels = student.shape[1], teacher.shape[1]
        factor_channels = max(1, int(self.rate * teacher_channels))
        factor_like = teacher[:, :1].expand(-1, factor_channels, -1, -1)
        self.paraphraser = _conv_stack(
            teacher_channels,
            teacher_channels,
            factor_channels,
            factor_channels,
            conv_class=nn.Conv2d,
            description=describe_shapes(teacher, factor_like),
        )
        self.decoder = _conv_stack(
            factor_channels, factor_channels, teacher_channels, teacher_channels,
            conv_class=nn.ConvTranspose2d, description=describe_shapes(factor_like, teacher),
        )  # fmt: skip
        self.translator = _conv_stack(
            student_channels,
            student_channels,
            factor_channels,
            factor_channels,
            conv_class=nn.Conv2d,
            description=describe_shapes(student, factor_like),
        )
        for module in (self.paraphraser, self.decoder, self.translator):
            module.to(student)

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        paraphraser, decoder, translator = (
            require_prepared(module, "FTLoss") for module in (self.paraphraser, self.decoder, self.translator)
        )  # fmt: skip
        student, teacher = map(upcast, feature_pair(self, context))
        teacher_factor = upcast(paraphraser(teacher.detach()))
        error = mean_squared_error(upcast(decoder(teacher_factor)), teacher.detach())
        return ft_loss(upcast(translator(student)), teacher_factor) + self.reconstruction_weight * error

    def extra_repr(self) -> str:
        return format_settings(self, "layer", "rate", "reconstruction_weight")


def _conv_stack(
    *widths: int, conv_class: type[nn.Conv2d | nn.ConvTranspose2d], description: str
) -> DescribedSequential:
    layers: list[nn.Module] = []
    for in_channels, out_channels in pairwise(widths):
        layers += [conv_class(in_channels, out_channels, 3, padding=1), nn.LeakyReLU(0.1)]
    return DescribedSequential(*layers, description=description)
