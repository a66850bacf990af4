"""Linear centered kernel alignment of Kornblith et al. (2019, https://arxiv.org/abs/1905.00414).

It is unbiased by the estimate of HSIC of Song et al. (2012, https://jmlr.org/papers/v13/song12a.html): the biased one
approaches 1 for any features wider than the number of samples. Features are ``[n, width]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.checks import check_same_length

__all__ = ["MIN_CKA_SAMPLES", "cka_matrix", "layerwise_cka", "linear_cka", "unbiased_cka"]

MIN_CKA_SAMPLES = 4


def linear_cka(first: Tensor, second: Tensor) -> float | None:
    """Linear CKA of the same samples, from 0 to 1, invariant to rotation and scale; ``None`` for constant features.

    >>> import torch
    >>> line = torch.tensor([[1.0], [2.0], [3.0]])
    >>> round(linear_cka(line, line * -7), 6), round(linear_cka(line, torch.tensor([[1.0], [0.0], [1.0]])), 6)
    (1.0, 0.0)
    """
    check_same_length(first, second)
    x, y = _center_features(first), _center_features(second)
    cross, self_x, self_y = (float((a.T @ b).square().sum()) for a, b in ((x, y), (x, x), (y, y)))
    return cross / math.sqrt(self_x * self_y) if self_x > 0 and self_y > 0 else None


def unbiased_cka(first: Tensor, second: Tensor) -> float | None:
    """:func:`linear_cka` from the unbiased estimate of HSIC: about 0 for independent features of any width.

    Needs at least 4 samples and can be slightly negative. ``None`` where the estimate of features with themselves is
    not positive: constant features, or too few samples for their width.
    """
    if len(first) < MIN_CKA_SAMPLES:
        raise LimbeckError(f"unbiased CKA needs at least 4 samples, got {len(first)}")
    check_same_length(first, second)
    x, y = _center_features(first), _center_features(second)
    cross, self_x, self_y = _hsic_from_features(x, y), _hsic_from_features(x, x), _hsic_from_features(y, y)
    if not x.any() or not y.any() or self_x <= 0 or self_y <= 0:
        return None
    return min(1.0, cross / math.sqrt(self_x * self_y))


def cka_matrix(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[list[float | None]]:
    """:func:`unbiased_cka` of every layer of ``first`` (rows) with every layer of ``second`` (columns).

    Layers are features of the same samples, at least 4. ``None`` where a layer is constant. Holds one ``n × n`` kernel
    per layer: 8 MB at 1000 samples.
    """
    num_samples = {len(features) for features in (*first.values(), *second.values())}
    if len(num_samples) != 1 or min(num_samples) < MIN_CKA_SAMPLES:
        raise LimbeckError(f"layers must be of the same samples, at least 4, got {sorted(num_samples)}")
    first_kernels, second_kernels = (
        [(kernel, _hsic_from_kernels(kernel, kernel)) for kernel in map(_linear_kernel, layers.values())]
        for layers in (first, second)
    )
    return [
        [
            min(1.0, _hsic_from_kernels(x, y) / math.sqrt(self_x * self_y)) if min(self_x, self_y) > 1e-20 else None
            for y, self_y in second_kernels
        ]
        for x, self_x in first_kernels
    ]


def layerwise_cka(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """CKA of every pair of layers, from features by layer; ``None`` without layers, or for less than 4 samples.

    Returns:
        ``student_layers`` and ``teacher_layers``; ``matrix``, see :func:`cka_matrix`; ``num_samples``.
    """
    if not student or not teacher:
        return None
    num_samples = min(len(features) for features in (*student.values(), *teacher.values()))
    if num_samples < MIN_CKA_SAMPLES:
        return None
    layers = {"student_layers": list(student), "teacher_layers": list(teacher)}
    return {**layers, "matrix": cka_matrix(student, teacher), "num_samples": num_samples}


def _center_features(features: Tensor) -> Tensor:
    """``features`` ``[n, width]`` minus their mean, in float64 on the CPU."""
    if features.ndim != 2:
        raise LimbeckError(f"CKA needs features [n, width], got {list(features.shape)}; flatten or pool them")
    if not bool(features.isfinite().all()):
        raise LimbeckError("features must be finite, got NaN or infinity; look at the network's weights")
    features = features.detach().cpu().double()
    return features - features.mean(dim=0)


def _linear_kernel(features: Tensor) -> Tensor:
    """``x @ x.T`` of centered and scaled features, with a diagonal of zeros."""
    x = _center_features(features)
    # CKA is invariant to scale; scaled, a fixed threshold separates constant features from those that vary little.
    x = x / (float(features.abs().max()) or 1.0)
    return (x @ x.T).fill_diagonal_(0.0)


def _hsic_from_kernels(kernel_x: Tensor, kernel_y: Tensor) -> float:
    return _unbiased_hsic((kernel_x * kernel_y).sum(), kernel_x.sum(dim=1), kernel_y.sum(dim=1))


def _hsic_from_features(x: Tensor, y: Tensor) -> float:
    """:func:`_hsic_from_kernels` of centered features, with sums over features instead of ``n × n`` kernels."""
    diagonal_x, diagonal_y = x.square().sum(dim=1), y.square().sum(dim=1)
    row_sums_x, row_sums_y = x @ x.sum(dim=0) - diagonal_x, y @ y.sum(dim=0) - diagonal_y
    return _unbiased_hsic((x.T @ y).square().sum() - diagonal_x @ diagonal_y, row_sums_x, row_sums_y)


def _unbiased_hsic(trace: Tensor, row_sums_x: Tensor, row_sums_y: Tensor) -> float:
    """Song et al., eq. 5, from the trace of the product of two kernels with a diagonal of zeros, and their row sums."""
    n = len(row_sums_x)
    total = trace + row_sums_x.sum() * row_sums_y.sum() / ((n - 1) * (n - 2)) - 2 * (row_sums_x @ row_sums_y) / (n - 2)
    return float(total) / (n * (n - 3))
