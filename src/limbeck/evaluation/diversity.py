"""How differently several networks answer the same samples, and how differently they see them.

Disagreement, double fault and the correlation of errors are those of Kuncheva & Whitaker, *Measures of Diversity in
Classifier Ensembles* (2003, https://doi.org/10.1023/A:1022859003006). CKA is the linear one of Kornblith et al. (2019,
https://arxiv.org/abs/1905.00414); :func:`unbiased_cka` puts the unbiased estimate of HSIC by Song et al. (2012,
https://jmlr.org/papers/v13/song12a.html) in its place, and is what limbeck shows: the plain one nears 1 for any two
networks once they have more features than there are samples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.checks import check_logits, labeled_mask

if TYPE_CHECKING:
    from limbeck.evaluation.model_outputs import ModelOutputs

__all__ = [
    "architecture_family",
    "disagreement_rate",
    "double_fault",
    "error_correlation",
    "linear_cka",
    "pairwise_similarity",
    "unbiased_cka",
]

_SIZE_SUFFIXES = frozenset({
    "atto", "femto", "pico", "nano", "tiny", "mini", "small", "medium", "base", "large", "huge", "giant", "xs", "xxs",
    "xl", "xxl", "bn", "patch", "window",
})  # fmt: skip


def disagreement_rate(first_logits: Tensor, second_logits: Tensor) -> float:
    """The share of rows where the two choose different classes; both ``[n, classes]``, at least one row.

    >>> disagreement_rate(torch.eye(4), torch.eye(4)[[0, 1, 2, 2]])
    0.25
    """
    first, second = check_logits(first_logits, owner="the first"), check_logits(second_logits, owner="the second")
    _check_same_length(first, second)
    if first.shape[1] != second.shape[1]:
        raise LimbeckError(
            f"one network knows {first.shape[1]} classes and the other {second.shape[1]}: networks that are compared "
            "choose among the same classes"
        )
    return float((first.argmax(dim=1) != second.argmax(dim=1)).double().mean())


def error_correlation(first_wrong: Tensor, second_wrong: Tensor) -> float | None:
    """Pearson's correlation (phi) of who is wrong where; ``None`` where one is never wrong, or always.

    Both are ``[n]`` booleans for the same samples. 1: wrong on the same samples; 0: as if independent; below 0: each
    is right where the other errs.

    >>> error_correlation(torch.tensor([True, False, True, False]), torch.tensor([True, False, False, False]))
    0.5773502691896258
    """
    first, second = _check_errors(first_wrong, second_wrong)
    first, second = first - first.mean(), second - second.mean()
    norm_product = float(first.square().sum().sqrt() * second.square().sum().sqrt())
    return max(-1.0, min(1.0, float(first @ second) / norm_product)) if norm_product > 0 else None


def double_fault(first_wrong: Tensor, second_wrong: Tensor) -> float:
    """The share of samples on which both are wrong; both ``[n]`` booleans.

    >>> double_fault(torch.tensor([True, False, True, False]), torch.tensor([True, False, False, False]))
    0.25
    """
    first, second = _check_errors(first_wrong, second_wrong)
    return float((first * second).mean())


def linear_cka(first: Tensor, second: Tensor) -> float | None:
    """Linear centred kernel alignment of two sets of features of the same samples, from 0 to 1 (Kornblith et al.).

    Shapes: ``[n, p]`` and ``[n, q]``. Unchanged by rotating or scaling either; 1 with itself. ``None`` where one of
    them is the same for all samples. Computed in float64 in the space of features: no ``n × n`` matrix is made.

    >>> line = torch.tensor([[1.0], [2.0], [3.0]])
    >>> round(linear_cka(line, line * -7), 6), round(linear_cka(line, torch.tensor([[1.0], [0.0], [1.0]])), 6)
    (1.0, 0.0)
    """
    x, y = _center_features(first, second)
    cross, self_x, self_y = (float((a.T @ b).square().sum()) for a, b in ((x, y), (x, x), (y, y)))
    return cross / math.sqrt(self_x * self_y) if self_x > 0 and self_y > 0 else None


def unbiased_cka(first: Tensor, second: Tensor) -> float | None:
    """The same from unbiased estimates of HSIC: about 0 for features that have nothing in common, however many.

    Shapes: ``[n, p]`` and ``[n, q]``, ``n`` at least 4. It may fall a little below 0. Unchanged by rotating, scaling or
    shifting either; 1 with itself. ``None`` where the estimate of one with itself is not above 0 (features that are the
    same for all samples, or too few samples for so many features).

    >>> line = torch.tensor([[1.0], [2.0], [3.0], [5.0]])
    >>> round(unbiased_cka(line, line * -7 + 1), 6)
    1.0
    """
    if len(first) < 4:
        raise LimbeckError(f"the unbiased CKA takes at least 4 samples, not {len(first)}")
    x, y = _center_features(first, second)
    cross, self_x, self_y = _hsic_from_features(x, y), _hsic_from_features(x, x), _hsic_from_features(y, y)
    # Features that never vary leave nothing but rounding.
    if not x.any() or not y.any() or self_x <= 0 or self_y <= 0:
        return None
    return min(1.0, cross / math.sqrt(self_x * self_y))


def pairwise_similarity(outputs: Mapping[str, ModelOutputs]) -> list[dict[str, Any]]:
    """Every two of several networks compared, on what each said about the same samples.

    Returns:
        For each pair ``first``, ``second``, ``disagreement`` (over all rows), ``error_correlation`` and
        ``double_fault`` (over the labelled rows, ``None`` without any), ``cka`` (unbiased; ``None`` under 4 samples)
        and ``cka_input``: ``features`` where both have some, else ``logits``.

    Raises:
        LimbeckError: other rows or other classes, or answers that are not finite.
    """
    rows = []
    for (first, first_outputs), (second, second_outputs) in combinations(outputs.items(), 2):
        rate = disagreement_rate(first_outputs.logits, second_outputs.logits)
        is_labeled = labeled_mask(
            first_outputs.target, num_rows=len(first_outputs.logits), num_classes=first_outputs.logits.shape[1]
        )
        errors = [
            (model_outputs.logits.argmax(dim=1) != first_outputs.target)[is_labeled]
            for model_outputs in (first_outputs, second_outputs)
        ]
        compared = (
            "features" if first_outputs.features is not None and second_outputs.features is not None else "logits"
        )
        x, y = (
            (first_outputs.features, second_outputs.features)
            if compared == "features"
            else (first_outputs.logits, second_outputs.logits)
        )
        assert x is not None
        assert y is not None
        rows.append({
            "first": first, "second": second, "disagreement": rate,
            "error_correlation": error_correlation(*errors) if len(errors[0]) else None,
            "double_fault": double_fault(*errors) if len(errors[0]) else None,
            "cka": unbiased_cka(x, y) if len(x) >= 4 else None, "cka_input": compared,
        })  # fmt: skip
    return rows


def architecture_family(name: str) -> str:
    """The architecture family that a network's name tells: what is left without numbers and sizes.

    >>> [architecture_family(name) for name in ("resnet56", "mobilenet_v3_small", "vit_tiny_patch16_224", "my.nets:WideNet2")]
    ['resnet', 'mobilenet', 'vit', 'widenet']
    """
    short = re.split(r"[:./]", name)[-1].lower()
    words = [word for word in re.split(r"[_-]", re.split(r"\d", short)[0]) if word]
    while len(words) > 1 and (words[-1] in _SIZE_SUFFIXES or len(words[-1]) == 1):
        words.pop()
    return "_".join(words) or short


def _check_errors(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    for errors in (first, second):
        if errors.dtype != torch.bool or errors.ndim != 1:
            raise LimbeckError(f"who is wrong is [n] booleans, not {errors.dtype} {list(errors.shape)}")
    _check_same_length(first, second)
    return first.detach().cpu().double(), second.detach().cpu().double()


def _center_features(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    for features in (first, second):
        if features.ndim != 2:
            raise LimbeckError(
                f"CKA compares features [n, width], not {list(features.shape)}: flatten or pool them first"
            )
        if not bool(features.isfinite().all()):
            raise LimbeckError("the features hold NaN or infinity, so CKA is not known: look at the network's weights")
    _check_same_length(first, second)
    x, y = (features.detach().cpu().double() for features in (first, second))
    return x - x.mean(dim=0), y - y.mean(dim=0)


def _hsic_from_features(x: Tensor, y: Tensor) -> float:
    """Song et al.'s estimate for linear kernels, eq. 5, with sums over features in the place of ``n × n`` kernels.

    Subtracting the means first leaves it as it is and keeps digits.
    """
    n = len(x)
    diagonal_x, diagonal_y = x.square().sum(dim=1), y.square().sum(dim=1)
    # Row sums of the kernels whose diagonal is zero.
    row_sums_x, row_sums_y = x @ x.sum(dim=0) - diagonal_x, y @ y.sum(dim=0) - diagonal_y
    trace = (x.T @ y).square().sum() - diagonal_x @ diagonal_y
    total = trace + row_sums_x.sum() * row_sums_y.sum() / ((n - 1) * (n - 2)) - 2 * (row_sums_x @ row_sums_y) / (n - 2)
    return float(total) / (n * (n - 3))


def _check_same_length(first: Tensor, second: Tensor) -> None:
    if len(first) != len(second) or not len(first):
        raise LimbeckError(
            f"two networks are compared on the same samples, at least one, not on {len(first)} and {len(second)}"
        )
