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

__all__ = ["cka_by_layer"]


def cka_by_layer(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[list[float | None]]:
    """The unbiased CKA of every layer of ``first`` (rows) with every layer of ``second`` (columns).

    Shapes: each layer ``[n, width]``, of the same ``n`` samples, at least 4. ``None`` where a layer is the same for all
    samples. Memory: 8 n² bytes a layer, 8 MB at 1000 samples.

    >>> import torch
    >>> line = torch.tensor([[1.0], [2.0], [3.0], [5.0]])
    >>> [round(value, 6) for value in cka_by_layer({"a": line}, {"b": -7 * line, "c": line * line})[0]]
    [1.0, 0.998625]
    """
    rows = {len(features) for features in (*first.values(), *second.values())}
    if len(rows) != 1 or min(rows) < 4:
        raise LimbeckError(
            f"CKA by layer takes the same samples for every layer, at least 4, and these have {sorted(rows)}"
        )
    ours, theirs = [_kernel(one) for one in first.values()], [_kernel(one) for one in second.values()]
    own, other = [_hsic(one, one) for one in ours], [_hsic(one, one) for one in theirs]
    return [
        [_share(_hsic(x, y), a, b) for y, b in zip(theirs, other, strict=True)] for x, a in zip(ours, own, strict=True)
    ]


def _kernel(features: Tensor) -> Tensor:
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


def _hsic(one: Tensor, other: Tensor) -> float:
    n = len(one)
    rows, others = one.sum(dim=1), other.sum(dim=1)
    total = (one * other).sum() + rows.sum() * others.sum() / ((n - 1) * (n - 2)) - 2 * (rows @ others) / (n - 2)
    return float(total) / (n * (n - 3))


def _share(cross: float, own: float, other: float) -> float | None:
    # Features that never vary leave nothing but rounding.
    return min(1.0, cross / math.sqrt(own * other)) if min(own, other) > 1e-20 else None
