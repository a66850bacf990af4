"""Attention transfer (AT): distance of normalized attention maps.

Zagoruyko & Komodakis, ICLR 2017, https://arxiv.org/abs/1612.03928. A map is the mean over channels of |f|^power,
flattened and divided by its L2 norm. The published code takes the mean of the squared difference over batch and
positions, the paper a sum of norms, some hundred times larger; this is the code's form, with a usual weight of 1000.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import attention_map, feature_pair, match_size, require_maps
from limbeck.losses._ops import mean_squared_error, upcast

__all__ = ["AttentionTransferLoss", "attention_transfer_loss"]


def attention_transfer_loss(student: Tensor, teacher: Tensor, *, power: float = 2.0) -> Tensor:
    """Mean over batch and positions of the squared difference of the two L2-normalized attention maps.

    Shapes: ``[batch, channels, height, width]`` each; channels may differ, and the larger map is average-pooled to the
    smaller before its attention is taken. Zero where the maps are proportional.

    >>> import torch
    >>> attention_transfer_loss(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]]))
    tensor(1.)
    """
    require_maps(student, teacher, method="attention transfer")
    student, teacher = match_size(upcast(student), upcast(teacher).detach())
    return mean_squared_error(attention_map(student, power=power), attention_map(teacher, power=power))


@final
@dataclass(frozen=True, slots=True)
class AttentionTransferLoss(Loss):
    """:func:`attention_transfer_loss` of one layer of student and teacher.

    Args:
        layer: name of the layer, the same for student and teacher.
        power: the exponent of the activations, at least 1 (below it, a zero after a ReLU has no finite gradient).
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "feature"
    paper: ClassVar = "https://arxiv.org/abs/1612.03928"

    layer: str
    power: float = 2.0
    teacher: str | None = None

    def __post_init__(self) -> None:
        if not self.power >= 1:
            raise LimbeckError(f"the power of an attention map is at least 1, not {self.power}")

    def __call__(self, context: LossContext) -> Tensor:
        return attention_transfer_loss(*feature_pair(self, context), power=self.power)
