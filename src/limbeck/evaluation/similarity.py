"""Similarity of networks on the same samples: predictions, errors and features.

Agreement is that of Stanton et al. (2021, https://arxiv.org/abs/2106.05945). Disagreement, double fault and the
correlation of errors are those of Kuncheva & Whitaker (2003, https://doi.org/10.1023/A:1022859003006). CKA is the
linear one of Kornblith et al. (2019, https://arxiv.org/abs/1905.00414), unbiased by the estimate of HSIC of Song et al.
(2012, https://jmlr.org/papers/v13/song12a.html): the biased one approaches 1 for any features wider than the number of
samples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.checks import check_logits, labeled_mask
from limbeck.losses._ops import require_same_shape

if TYPE_CHECKING:
    from limbeck.evaluation.model_outputs import ModelOutputs

__all__ = [
    "architecture_family",
    "cka_matrix",
    "disagreement_rate",
    "double_fault",
    "error_correlation",
    "find_disagreements",
    "linear_cka",
    "pairwise_similarity",
    "prediction_agreement",
    "unbiased_cka",
]

_KL_CHUNK_ROWS = 8192
_MIN_CKA_SAMPLES = 4
_SIZE_SUFFIXES = frozenset({
    "atto", "femto", "pico", "nano", "tiny", "mini", "small", "medium", "base", "large", "huge", "giant", "xs", "xxs",
    "xl", "xxl", "bn", "patch", "window",
})  # fmt: skip


def prediction_agreement(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> dict[str, float | None]:
    """Agreement of the predictions of student and teacher, and which of them errs.

    Args:
        student_logits: ``[n, classes]``.
        teacher_logits: ``[n, classes]``.
        target: ``[n]`` class indices, −100 for no label.

    Returns:
        ``top1_agreement``, the fraction of rows with the same predicted class; ``kl``, the mean KL(teacher ‖ student)
        at temperature 1, in nats; and, as fractions of the labeled rows (``None`` without any), ``both_wrong``,
        ``student_only_wrong`` and ``teacher_only_wrong``.

    Raises:
        LimbeckError: no row, logits that are not finite, or shapes that do not match.

    >>> student, teacher = torch.tensor([[0.0, 2.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> agreement = prediction_agreement(student, teacher, torch.tensor([0, 0]))
    >>> agreement["top1_agreement"], agreement["student_only_wrong"], round(agreement["kl"], 4)
    (0.5, 0.5, 0.7616)
    """
    student, teacher, is_labeled = _check_pair(student_logits, teacher_logits, target)
    student_class, teacher_class, labels = student.argmax(dim=1), teacher.argmax(dim=1), target.detach().cpu()
    student_wrong, teacher_wrong = (student_class != labels)[is_labeled], (teacher_class != labels)[is_labeled]
    return {
        "top1_agreement": _mean_or_none(student_class == teacher_class),
        "kl": _mean_kl(student, teacher),
        "both_wrong": _mean_or_none(student_wrong & teacher_wrong),
        "student_only_wrong": _mean_or_none(student_wrong & ~teacher_wrong),
        "teacher_only_wrong": _mean_or_none(~student_wrong & teacher_wrong),
    }


def find_disagreements(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, limit: int = 12
) -> list[dict[str, Any]]:
    """Labeled rows with different predictions of student and teacher, by decreasing confidence of the less confident.

    Args:
        student_logits: ``[n, classes]``.
        teacher_logits: ``[n, classes]``.
        target: ``[n]`` class indices, −100 for no label.
        limit: maximum number of rows.

    Returns:
        For each row its ``index``, ``target``, the classes predicted by ``teacher`` and ``student``, and their
        probabilities ``teacher_confidence`` and ``student_confidence``.

    >>> student, teacher = torch.tensor([[0.0, 2.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> rows = find_disagreements(student, teacher, torch.tensor([0, 0]))
    >>> [(row["index"], row["student"], row["teacher"]) for row in rows]
    [(0, 1, 0)]
    """
    if limit < 0:
        raise LimbeckError(f"limit must be at least 0, got {limit}")
    student, teacher, is_labeled = _check_pair(student_logits, teacher_logits, target)
    indices = ((student.argmax(dim=1) != teacher.argmax(dim=1)) & is_labeled).nonzero()[:, 0]
    student_confidence, student_class = F.softmax(student[indices].double(), dim=1).max(dim=1)
    teacher_confidence, teacher_class = F.softmax(teacher[indices].double(), dim=1).max(dim=1)
    order = torch.minimum(student_confidence, teacher_confidence).argsort(descending=True, stable=True)[:limit]
    columns = {
        "index": indices,
        "target": target.detach().cpu()[indices],
        "teacher": teacher_class,
        "student": student_class,
        "teacher_confidence": teacher_confidence,
        "student_confidence": student_confidence,
    }
    rows = zip(*(column[order].tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def disagreement_rate(first_logits: Tensor, second_logits: Tensor) -> float:
    """Fraction of rows of ``[n, classes]`` logits with different predicted classes.

    >>> disagreement_rate(torch.eye(4), torch.eye(4)[[0, 1, 2, 2]])
    0.25
    """
    first, second = check_logits(first_logits, owner="the first"), check_logits(second_logits, owner="the second")
    _check_same_length(first, second)
    if first.shape[1] != second.shape[1]:
        raise LimbeckError(
            f"both networks must have the same classes, got {first.shape[1]} classes and {second.shape[1]}"
        )
    return float((first.argmax(dim=1) != second.argmax(dim=1)).double().mean())


def error_correlation(first_wrong: Tensor, second_wrong: Tensor) -> float | None:
    """Pearson correlation (phi) of the errors of two networks; ``None`` where one errs never or always.

    Both are ``[n]`` booleans of the same samples.

    >>> round(error_correlation(torch.tensor([True, False, True, False]), torch.tensor([True, False, False, False])), 6)
    0.57735
    """
    errors = torch.stack(_check_errors(first_wrong, second_wrong))
    if bool((errors == errors[:, :1]).all(dim=1).any()):
        return None
    return float(torch.corrcoef(errors)[0, 1])


def double_fault(first_wrong: Tensor, second_wrong: Tensor) -> float:
    """Fraction of samples on which both networks err; both ``[n]`` booleans.

    >>> double_fault(torch.tensor([True, False, True, False]), torch.tensor([True, False, False, False]))
    0.25
    """
    first, second = _check_errors(first_wrong, second_wrong)
    return float((first * second).mean())


def linear_cka(first: Tensor, second: Tensor) -> float | None:
    """Linear centered kernel alignment of features ``[n, p]`` and ``[n, q]`` of the same samples, from 0 to 1.

    Invariant to rotation and scale. ``None`` where one of them is constant.

    >>> line = torch.tensor([[1.0], [2.0], [3.0]])
    >>> round(linear_cka(line, line * -7), 6), round(linear_cka(line, torch.tensor([[1.0], [0.0], [1.0]])), 6)
    (1.0, 0.0)
    """
    _check_same_length(first, second)
    x, y = _center_features(first), _center_features(second)
    cross, self_x, self_y = (float((a.T @ b).square().sum()) for a, b in ((x, y), (x, x), (y, y)))
    return cross / math.sqrt(self_x * self_y) if self_x > 0 and self_y > 0 else None


def unbiased_cka(first: Tensor, second: Tensor) -> float | None:
    """:func:`linear_cka` from the unbiased estimate of HSIC: about 0 for independent features of any width.

    Needs at least 4 samples and can be slightly negative. ``None`` where the estimate of one with itself is not
    positive: constant features, or too few samples for their width.

    >>> line = torch.tensor([[1.0], [2.0], [3.0], [5.0]])
    >>> round(unbiased_cka(line, line * -7 + 1), 6)
    1.0
    """
    if len(first) < _MIN_CKA_SAMPLES:
        raise LimbeckError(f"unbiased CKA needs at least 4 samples, got {len(first)}")
    _check_same_length(first, second)
    x, y = _center_features(first), _center_features(second)
    cross, self_x, self_y = _hsic_from_features(x, y), _hsic_from_features(x, x), _hsic_from_features(y, y)
    if not x.any() or not y.any() or self_x <= 0 or self_y <= 0:
        return None
    return min(1.0, cross / math.sqrt(self_x * self_y))


def cka_matrix(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[list[float | None]]:
    """:func:`unbiased_cka` of every layer of ``first`` (rows) with every layer of ``second`` (columns).

    Layers are ``[n, width]`` features of the same samples, at least 4. ``None`` where a layer is constant. Holds one
    ``n × n`` kernel per layer: 8 MB at 1000 samples.

    >>> line = torch.tensor([[1.0], [2.0], [3.0], [5.0]])
    >>> [round(value, 6) for value in cka_matrix({"a": line}, {"b": -7 * line, "c": line * line})[0]]
    [1.0, 0.998625]
    """
    num_samples = {len(features) for features in (*first.values(), *second.values())}
    if len(num_samples) != 1 or min(num_samples) < _MIN_CKA_SAMPLES:
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


def pairwise_similarity(outputs: Mapping[str, ModelOutputs]) -> list[dict[str, Any]]:
    """Similarity of every pair of networks, from their outputs on the same samples.

    Returns:
        For each pair ``first``, ``second``, ``disagreement`` (all rows), ``error_correlation`` and ``double_fault``
        (labeled rows, ``None`` without any), ``cka`` (unbiased; ``None`` for less than 4 samples) and ``cka_input``:
        ``features`` where both have some, else ``logits``.

    Raises:
        LimbeckError: different rows or classes, or outputs that are not finite.
    """
    pairs = []
    for (first, a), (second, b) in combinations(outputs.items(), 2):
        disagreement = disagreement_rate(a.logits, b.logits)
        is_labeled = labeled_mask(a.target, num_rows=len(a.logits), num_classes=a.logits.shape[1])
        errors = [(logits.argmax(dim=1) != a.target)[is_labeled] for logits in (a.logits, b.logits)]
        if a.features is not None and b.features is not None:
            cka_input, x, y = "features", a.features, b.features
        else:
            cka_input, x, y = "logits", a.logits, b.logits
        pairs.append(
            {
                "first": first,
                "second": second,
                "disagreement": disagreement,
                "error_correlation": error_correlation(*errors) if len(errors[0]) else None,
                "double_fault": double_fault(*errors) if len(errors[0]) else None,
                "cka": unbiased_cka(x, y) if len(x) >= _MIN_CKA_SAMPLES else None,
                "cka_input": cka_input,
            }
        )
    return pairs


def architecture_family(name: str) -> str:
    """Architecture family in the name of a model: the name without numbers and sizes.

    >>> [architecture_family(name) for name in ("mobilenet_v3_small", "vit_tiny_patch16_224", "my.nets:WideNet2")]
    ['mobilenet', 'vit', 'widenet']
    """
    short = re.split(r"[:./]", name)[-1].lower()
    words = [word for word in re.split(r"[_-]", re.split(r"\d", short)[0]) if word]
    while len(words) > 1 and (words[-1] in _SIZE_SUFFIXES or len(words[-1]) == 1):
        words.pop()
    return "_".join(words) or short


def _check_pair(student: Tensor, teacher: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = check_logits(student, owner="the student's"), check_logits(teacher, owner="the teacher's")
    require_same_shape(student, teacher, name="logits", hint="both must have the same rows and classes")
    if not len(student):
        raise LimbeckError("the split must have at least one row, got no row")
    return student, teacher, labeled_mask(target, num_rows=len(student), num_classes=student.shape[1])


def _check_errors(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    for errors in (first, second):
        if errors.dtype != torch.bool or errors.ndim != 1:
            raise LimbeckError(f"errors must be [n] booleans, got {errors.dtype} {list(errors.shape)}")
    _check_same_length(first, second)
    return first.detach().cpu().double(), second.detach().cpu().double()


def _check_same_length(first: Tensor, second: Tensor) -> None:
    if len(first) != len(second) or not len(first):
        raise LimbeckError(
            f"networks must be compared on the same samples, at least one, got {len(first)} and {len(second)}"
        )


def _mean_kl(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for rows_q, rows_p in zip(torch.split(student, _KL_CHUNK_ROWS), torch.split(teacher, _KL_CHUNK_ROWS), strict=True):
        log_q, log_p = F.log_softmax(rows_q.double(), dim=1), F.log_softmax(rows_p.double(), dim=1)
        total += float(F.kl_div(log_q, log_p, reduction="sum", log_target=True))
    return max(total, 0.0) / len(student)  # rounding can make it −1e−17


def _mean_or_none(mask: Tensor) -> float | None:
    return float(mask.double().mean()) if len(mask) else None


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
    # CKA is invariant to scale; with it a fixed threshold tells constant features from those that vary little.
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
