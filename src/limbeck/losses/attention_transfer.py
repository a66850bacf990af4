"""Attention transfer (AT): distance of normalized attention maps.

Zagoruyko & Komodakis, ICLR 2017, https://arxiv.org/abs/1612.03928. A map is the mean over channels of |f|^power,
flattened and divided by its L2 norm; the loss is the mean of the squared difference over batch and positions, as in the
published code (the paper has a sum of norms), with a usual weight of 1000.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.losses._bases import FeatureLoss
from limbeck.losses._features import attention_map, match_size, require_maps
from limbeck.losses._ops import mean_squared_error, require_interval, upcast


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
@dataclass(frozen=True)
class AttentionTransferLoss(FeatureLoss):
    """:func:`attention_transfer_loss` of one layer of student and teacher.

    Args:
        power: the exponent of the activations, at least 1 (below it, a zero after a ReLU has no finite gradient).
    """

    paper: ClassVar = "https://arxiv.org/abs/1612.03928"
    fn: ClassVar = staticmethod(attention_transfer_loss)

    power: float = 2.0

    def __post_init__(self) -> None:
        require_interval("power", self.power, "[1, inf)")
