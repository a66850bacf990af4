"""Correlation congruence (CC): kernel matrices between the samples of a batch.

Peng et al., ICCV 2019, https://arxiv.org/abs/1904.01802. With K a kernel between all pairs of a batch, the loss is the
mean over batch² entries of the squared difference between the student's K and the teacher's. Features are flattened and
made of length 1 first, for both kernels, so that networks of different widths and scales can be compared:

    gaussian  exp(−gamma · ‖x − y‖²)    the paper's choice, gamma 0.4
    bilinear  x · y

The paper expands the Gaussian kernel to second order, to save work; between unit vectors it is exp(2 gamma (x·y − 1)),
so here it is exact. A widely used benchmark gives this name to another loss, the product of differences of
neighbors in the batch.

On several processes, each has only the pairs of its local batch, unless the objective gathers the batch
(``gather_distributed: true`` in a recipe).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import feature_pair, flatten_samples
from limbeck.losses._ops import mean_squared_error

__all__ = ["CCLoss", "cc_loss"]

Kernel = Literal["gaussian", "bilinear"]


def cc_loss(student: Tensor, teacher: Tensor, *, kernel: Kernel = "gaussian", gamma: float = 0.4) -> Tensor:
    """Mean over all pairs of the squared difference of the two kernel matrices of the batch.

    Shapes: ``[batch, ...]`` of any rank; only the batch has to agree. ``gamma`` applies to the Gaussian kernel. Zero
    where the angles between samples are the same.

    >>> import torch
    >>> cc_loss(torch.eye(2), torch.ones(2, 2), kernel="bilinear")
    tensor(0.5000)
    """
    _require_kernel(kernel, gamma)
    student, teacher = flatten_samples(student, teacher, method="correlation")
    return mean_squared_error(_kernel_matrix(student, kernel, gamma), _kernel_matrix(teacher, kernel, gamma))


@final
@dataclass(frozen=True, slots=True)
class CCLoss(Loss):
    """:func:`cc_loss` of one layer of student and teacher.

    Args:
        layer: name of the layer, the same for student and teacher.
        kernel: ``"gaussian"`` or ``"bilinear"``.
        gamma: of the Gaussian kernel, above zero; the bilinear one has none.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1904.01802"

    layer: str
    kernel: Kernel = "gaussian"
    gamma: float = 0.4
    teacher: str | None = None

    def __post_init__(self) -> None:
        _require_kernel(self.kernel, self.gamma)

    def __call__(self, context: LossContext) -> Tensor:
        return cc_loss(*feature_pair(self, context), kernel=self.kernel, gamma=self.gamma)


def _kernel_matrix(rows: Tensor, kernel: Kernel, gamma: float) -> Tensor:
    unit = F.normalize(rows, dim=1)
    cosines = unit @ unit.mT
    return cosines if kernel == "bilinear" else (2 * gamma * (cosines - 1)).exp()


def _require_kernel(kernel: str, gamma: float) -> None:
    if kernel not in ("gaussian", "bilinear"):
        raise LimbeckError(f"a kernel is 'gaussian' or 'bilinear', not {kernel!r}")
    if not 0 < gamma < math.inf:
        raise LimbeckError(f"the gamma of a Gaussian kernel is a number above zero, not {gamma}")
