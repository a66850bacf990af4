"""CKA by layer: which layer of one network sees alike which layer of another, on the same samples.

Linear CKA of Kornblith et al. (2019, https://arxiv.org/abs/1905.00414) from the unbiased estimate of HSIC by Song et
al. (2012, https://jmlr.org/papers/v13/song12a.html), as in :func:`limbeck.evaluation.unbiased_cka`; here over ``n × n``
kernels, which are made once for each layer, however many it is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["cka_matrix"]


def cka_matrix(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[list[float | None]]:
    """The unbiased CKA of every layer of ``first`` (rows) with every layer of ``second`` (columns).

    Shapes: each layer ``[n, width]``, of the same ``n`` samples, at least 4. ``None`` where a layer is the same for all
    samples. Memory: 8 n² bytes a layer, 8 MB at 1000 samples.

    >>> import torch
    >>> line = torch.tensor([[1.0], [2.0], [3.0], [5.0]])
    >>> [round(value, 6) for value in cka_matrix({"a": line}, {"b": -7 * line, "c": line * line})[0]]
    [1.0, 0.998625]
    """
    num_samples = {len(features) for features in (*first.values(), *second.values())}
    if len(num_samples) != 1 or min(num_samples) < 4:
        raise LimbeckError(
            f"CKA by layer takes the same samples for every layer, at least 4, and these have {sorted(num_samples)}"
        )
    first_kernels, second_kernels = (
        [_linear_kernel(item) for item in first.values()],
        [_linear_kernel(item) for item in second.values()],
    )
    first_self, second_self = (
        [_hsic_from_kernels(item, item) for item in first_kernels],
        [_hsic_from_kernels(item, item) for item in second_kernels],
    )
    return [
        [_normalize_cka(_hsic_from_kernels(x, y), a, b) for y, b in zip(second_kernels, second_self, strict=True)]
        for x, a in zip(first_kernels, first_self, strict=True)
    ]


def _linear_kernel(features: Tensor) -> Tensor:
    """``features @ features.T`` of centred features in float64, with a diagonal of zeros."""
    if features.ndim != 2 or not bool(features.isfinite().all()):
        raise LimbeckError(
            f"CKA compares finite features [n, width], and these are {list(features.shape)}: pool them first, or look "
            "at the network's weights"
        )
    x = features.detach().cpu().double()
    x = x - x.mean(dim=0)
    # The scale changes no CKA; without it, what never varies could not be told from what varies little.
    scale = float(features.abs().max()) or 1.0
    kernel = (x / scale) @ (x / scale).T
    return kernel.fill_diagonal_(0.0)


def _hsic_from_kernels(kernel_x: Tensor, kernel_y: Tensor) -> float:
    n = len(kernel_x)
    row_sums_x, row_sums_y = kernel_x.sum(dim=1), kernel_y.sum(dim=1)
    total = (
        (kernel_x * kernel_y).sum()
        + row_sums_x.sum() * row_sums_y.sum() / ((n - 1) * (n - 2))
        - 2 * (row_sums_x @ row_sums_y) / (n - 2)
    )
    return float(total) / (n * (n - 3))


def _normalize_cka(cross: float, self_x: float, self_y: float) -> float | None:
    # Features that never vary leave nothing but rounding.
    return min(1.0, cross / math.sqrt(self_x * self_y)) if min(self_x, self_y) > 1e-20 else None
