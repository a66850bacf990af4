"""Knowledge distillation with more weight on pixels near class boundaries.

KL(teacher ‖ student) of each pixel, as in Hinton et al., https://arxiv.org/abs/1503.02531, times a weight:

    w_i  = 1 + boundary_weight · b_i,   b_i = 1 where the window of (2·radius + 1)² pixels around i has two classes
    loss = τ² · Σ w_i · KL_i / Σ w_i

So weights have mean 1, and with boundary_weight 0 the loss is :func:`~limbeck.losses.kd.kd_loss`. That errors of small
networks lie at boundaries, and that edges and bodies of objects deserve weights of their own, is from Liu et al.,
BPKD, WACV 2024, https://arxiv.org/abs/2306.08075; there edges and bodies have different losses, here both have KL. The
sum 1 + w_0 · (near a border) is that of the weight map of U-Net, Ronneberger et al., MICCAI 2015,
https://arxiv.org/abs/1505.04597, with a window in place of its Gaussian of distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.losses._bases import LogitLoss
from limbeck.losses._logits import TemperatureValue, kl_by_row, log_softmax_pair, temperature_scaled_mean
from limbeck.losses._masks import find_rows, is_boundary, require_mask
from limbeck.losses._ops import require_interval
from limbeck.losses.temperature import apply_temperature


def boundary_kd_loss(
    student: Tensor, teacher: Tensor, *, row_weights: Tensor, temperature: TemperatureValue = 4.0
) -> Tensor:
    """Weighted mean over rows of KL(teacher ‖ student) at ``temperature``, times ``temperature ** 2``.

    Shapes: both ``[rows, classes]`` logits; ``row_weights`` ``[rows]``, above zero; ``temperature`` a number or
    ``[rows]``. With equal weights it is :func:`~limbeck.losses.kd.kd_loss`.

    >>> import torch
    >>> student, teacher = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.zeros(2, 2)
    >>> boundary_kd_loss(student, teacher, row_weights=torch.tensor([3.0, 1.0]), temperature=1.0)  # ¾ · 0.4338
    tensor(0.3253)
    """
    log_q, log_p, temperature = log_softmax_pair(student, teacher, temperature)
    if row_weights.shape != (len(student),):
        raise LimbeckError(f"row_weights must be [{len(student)}], one for each row, got {list(row_weights.shape)}")
    weights = (row_weights / row_weights.double().mean()).to(log_q)  # exactly 1 where all are equal
    if isinstance(temperature, Tensor):
        return temperature_scaled_mean(kl_by_row(log_q, log_p) * weights, temperature)
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True) * weights[:, None]
    return divergence.sum() * (temperature**2 / max(len(log_q), 1))


@final
@dataclass(frozen=True)
class BoundaryKDLoss(LogitLoss):
    """:func:`boundary_kd_loss` of pixels, with the mask of ``sample_targets``.

    Args:
        boundary_weight: weight of pixels near a boundary in addition to 1, at least 0.
        radius: distance from the boundary in rows or columns of the task's grid, at least 1.
    """

    paper: ClassVar = "https://arxiv.org/abs/2306.08075"
    uses_task_temperature: ClassVar = True
    needs_target: ClassVar = True
    fn: ClassVar = staticmethod(boundary_kd_loss)

    boundary_weight: float = 4.0
    radius: int = 2

    def __post_init__(self) -> None:
        require_interval("boundary_weight", self.boundary_weight, "[0, inf)")
        require_interval("radius", self.radius, "[1, inf)")
        super().__post_init__()

    def __call__(self, context: LossContext) -> Tensor:
        mask = require_mask(context, self.teacher)
        is_near = is_boundary(mask, radius=self.radius)[find_rows(mask, context.pair(self.teacher)[0])]
        fn = partial(boundary_kd_loss, row_weights=1.0 + self.boundary_weight * is_near)
        return apply_temperature(fn, context, temperature=self.temperature, teacher=self.teacher)
