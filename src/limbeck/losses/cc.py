"""Correlation congruence (CC): kernel matrices between the samples of a batch.

Peng et al., ICCV 2019, https://arxiv.org/abs/1904.01802. With K a kernel between all pairs of a batch, the loss is the
mean over batch² entries of the squared difference between the student's K and the teacher's. Features are flattened and
made of length 1 first, so that networks of different widths and scales can be compared:

    gaussian  exp(−gamma · ‖x − y‖²) = exp(2 gamma (x·y − 1)); the paper's choice, gamma 0.4
    bilinear  x · y

On several processes each has only the pairs of its local batch, unless the objective gathers it
(``gather_distributed: true`` in a recipe).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.losses._bases import FeatureLoss
from limbeck.losses._features import flatten_samples
from limbeck.losses._ops import mean_squared_error, require_interval

Kernel = Literal["gaussian", "bilinear"]


def cc_loss(student: Tensor, teacher: Tensor, *, kernel: Kernel = "gaussian", gamma: float = 0.4) -> Tensor:
    """Mean over all pairs of the squared difference of the two kernel matrices of the batch.

    Shapes: ``[batch, ...]`` of any rank; only the batch must agree. ``gamma`` applies to the Gaussian kernel. Zero
    where the angles between samples are equal.

    >>> import torch
    >>> cc_loss(torch.eye(2), torch.ones(2, 2), kernel="bilinear")
    tensor(0.5000)
    """
    _require_kernel(kernel, gamma)
    student, teacher = flatten_samples(student, teacher, method="cc")
    return mean_squared_error(_kernel_matrix(student, kernel, gamma), _kernel_matrix(teacher, kernel, gamma))


@final
@dataclass(frozen=True)
class CCLoss(FeatureLoss):
    """:func:`cc_loss` of one layer of student and teacher.

    Args:
        kernel: ``"gaussian"`` or ``"bilinear"``.
        gamma: of the Gaussian kernel, above zero.
    """

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1904.01802"
    fn: ClassVar = staticmethod(cc_loss)

    kernel: Kernel = "gaussian"
    gamma: float = 0.4

    def __post_init__(self) -> None:
        _require_kernel(self.kernel, self.gamma)


def _kernel_matrix(rows: Tensor, kernel: Kernel, gamma: float) -> Tensor:
    unit = F.normalize(rows, dim=1)
    cosines = unit @ unit.mT
    return cosines if kernel == "bilinear" else (2 * gamma * (cosines - 1)).exp()


def _require_kernel(kernel: str, gamma: float) -> None:
    if kernel not in ("gaussian", "bilinear"):
        raise LimbeckError(f"kernel must be 'gaussian' or 'bilinear', got {kernel!r}")
    require_interval("gamma", gamma, "(0, inf)")
