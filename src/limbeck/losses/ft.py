"""Factor transfer (FT): maps of the teacher's and the student's factors.

Kim et al., NeurIPS 2018, https://arxiv.org/abs/1802.04977. A paraphraser, an autoencoder of the teacher's map with half
as many channels inside, extracts the teacher's factor; a translator extracts the student's. Both are three 3×3
convolutions with leaky ReLUs (0.1), the paraphraser's decoder has three transposed ones. Each factor becomes one map,
the mean over channels of f², flattened and divided by its L2 norm; the loss is the mean absolute difference, with a
usual weight of 200, as in published code (the paper normalizes the factor and keeps its channels).

The paper trains the paraphraser first. Here it is trained together with the student: the weighted reconstruction error
has a gradient to the paraphraser only, the difference of the factors to translator and student only.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.losses._bases import ProjectedFeatureLoss
from limbeck.losses._features import (
    Projection,
    attention_map,
    describe_shapes,
    match_size,
    require_maps,
    require_prepared,
)
from limbeck.losses._ops import mean_squared_error, require_interval, upcast


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
        raise LimbeckError(f"factors must be of one batch, got {len(student)} and {len(teacher)} samples")
    difference = attention_map(student) - attention_map(teacher)
    return difference.abs().sum() / max(difference.numel(), 1)


@final
class FTLoss(ProjectedFeatureLoss):
    """:func:`ft_loss` of one layer, plus the reconstruction error that trains the paraphraser.

    Args:
        rate: channels of a factor over channels of the teacher, above 0 and up to 1.
        reconstruction_weight: weight of the reconstruction error within the loss. Its default times the usual weight of
            200 is 1.
    """

    paper: ClassVar = "https://arxiv.org/abs/1802.04977"
    compares_positions: ClassVar = False
    fn: ClassVar = staticmethod(ft_loss)
    settings: ClassVar = ("layer", "rate", "reconstruction_weight")

    def __init__(
        self, layer: str, *, rate: float = 0.5, reconstruction_weight: float = 0.005, teacher: str | None = None
    ) -> None:  # fmt: skip
        super().__init__(layer, teacher=teacher)
        require_interval("rate", rate, "(0, 1]")
        require_interval("reconstruction_weight", reconstruction_weight, "(0, inf)")
        self.rate, self.reconstruction_weight = rate, reconstruction_weight
        self.paraphraser: Projection | None = None
        self.decoder: Projection | None = None
        self.translator: Projection | None = None

    def prepare(self, context: LossContext) -> None:
        """Build paraphraser and translator for the features of ``context``."""
        student, teacher = map(upcast, self.features(context))
        require_maps(student, teacher, method="factor transfer")
        channels = teacher.shape[1]
        inner = max(1, int(self.rate * channels))
        factor = teacher[:, :1].expand(-1, inner, -1, -1)
        self.paraphraser = _conv_stack(nn.Conv2d, (channels, channels, inner, inner), teacher, factor)
        self.decoder = _conv_stack(nn.ConvTranspose2d, (inner, inner, channels, channels), factor, teacher)
        widths = (student.shape[1], student.shape[1], inner, inner)
        self.translator = _conv_stack(nn.Conv2d, widths, student, factor)
        self.to(student)

    def forward(self, context: LossContext) -> Tensor:
        paraphraser, decoder, translator = (
            require_prepared(module, "FTLoss") for module in (self.paraphraser, self.decoder, self.translator)
        )
        student, teacher = map(upcast, self.features(context))
        teacher_factor = upcast(paraphraser(teacher.detach()))
        error = mean_squared_error(upcast(decoder(teacher_factor)), teacher.detach())
        return ft_loss(upcast(translator(student)), teacher_factor) + self.reconstruction_weight * error


def _conv_stack(
    conv_class: type[nn.Conv2d | nn.ConvTranspose2d], widths: tuple[int, ...], inputs: Tensor, outputs: Tensor
) -> Projection:
    layers: list[nn.Module] = []
    for in_channels, out_channels in pairwise(widths):
        layers += [conv_class(in_channels, out_channels, 3, padding=1), nn.LeakyReLU(0.1)]
    return Projection(*layers, description=describe_shapes(inputs, outputs))
