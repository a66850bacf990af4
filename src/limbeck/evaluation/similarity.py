"""Similarity of networks on the same samples: predictions, errors and features.

Fidelity to a teacher is that of Stanton et al. (2021, https://arxiv.org/abs/2106.05945). Compare it with that of the
same student trained without a teacher: two accurate networks agree, and err on the same hard samples. Disagreement,
double fault and the correlation of errors are those of Kuncheva & Whitaker (2003,
https://doi.org/10.1023/A:1022859003006).

Logits are ``[n, classes]``, targets ``[n]`` class indices with −100 for no label. Values that do not match or are not
finite raise :class:`LimbeckError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Task
from limbeck.data.split import UNLABELED
from limbeck.evaluation.checks import check_class_names, check_logits, check_same_length, labeled_mask
from limbeck.evaluation.cka import MIN_CKA_SAMPLES, layerwise_cka, unbiased_cka
from limbeck.evaluation.model_outputs import LayerRecorder, ModelOutputs, first_batch
from limbeck.losses._ops import require_same_shape

__all__ = [
    "architecture_family",
    "disagreement_rate",
    "double_fault",
    "error_correlation",
    "find_disagreements",
    "measure_fidelity",
    "pairwise_similarity",
    "prediction_agreement",
    "prediction_similarity",
]

_KL_CHUNK_ROWS = 8192
_SIZE_SUFFIXES = frozenset({
    "atto", "femto", "pico", "nano", "tiny", "mini", "small", "medium", "base", "large", "huge", "giant", "xs", "xxs",
    "xl", "xxl", "bn", "patch", "window",
})  # fmt: skip


def measure_fidelity(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Any], task: Task, *,
    class_names: Sequence[str] | None = None, max_samples: int = 1000,
) -> dict[str, Any]:  # fmt: skip
    """Fidelity of ``student`` to ``teacher`` on ``batches``, both in eval mode. Iterates over ``batches`` once.

    Args:
        student: a network that the task can call.
        teacher: a network with the same classes.
        batches: batches of one split, in an order that mixes the classes, since CKA uses the first samples.
        task: the task of the batches.
        class_names: names of the classes; ``None``: their indices.
        max_samples: maximum number of samples for CKA.

    Returns:
        The result of :func:`prediction_similarity`, and ``cka``, the result of :func:`layerwise_cka`.

    >>> from limbeck.tasks import Classification
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> batch = {"input": torch.eye(2).repeat(4, 1), "target": torch.zeros(8, dtype=torch.long)}
    >>> fidelity = measure_fidelity(net, net, [batch], Classification(2))
    >>> fidelity["prediction_agreement"], fidelity["kl"], round(fidelity["cka"]["matrix"][0][0], 6)
    (1.0, 0.0, 1.0)
    """
    first, batches = first_batch(batches)
    recorders = [LayerRecorder(model, first, task, max_samples=max_samples) for model in (student, teacher)]
    for batch in batches:
        for recorder in recorders:
            recorder.record(batch)
    logits, teacher_logits = (recorder.logits for recorder in recorders)
    names = [str(index) for index in range(logits.shape[1])] if class_names is None else class_names
    similarity = prediction_similarity(logits, teacher_logits, recorders[0].target, class_names=names)
    return {**similarity, "cka": layerwise_cka(*(recorder.features for recorder in recorders))}


def prediction_similarity(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, class_names: Sequence[str]
) -> dict[str, Any]:
    """Agreement of predictions, and common errors by class.

    Returns:
        ``num_samples`` (all rows); the values of :func:`prediction_agreement`; ``same_error``, the fraction of labeled
        rows with the same wrong prediction; and ``per_class``, for each class with samples the counts ``num_samples``,
        ``same_error``, ``different_error`` (both wrong with different predictions), ``student_only_wrong`` and
        ``teacher_only_wrong``.

    >>> student, teacher = torch.eye(3)[[1, 1, 0, 2]], torch.eye(3)[[1, 2, 0, 0]]
    >>> result = prediction_similarity(student, teacher, torch.tensor([0, 0, 0, 0]), class_names=["a", "b", "c"])
    >>> list(result["per_class"][0].values())
    ['a', 4, 1, 1, 1, 0]
    """
    metrics = prediction_agreement(student_logits, teacher_logits, target)
    check_class_names(class_names, student_logits)
    labels, masks = _error_masks(student_logits, teacher_logits, target)
    counts = {
        name: torch.bincount(labels[mask], minlength=len(class_names)).tolist()
        for name, mask in {"num_samples": torch.ones_like(labels, dtype=torch.bool), **masks}.items()
    }
    per_class = [
        {"class": class_name, **{name: counts[name][i] for name in counts}}
        for i, class_name in enumerate(class_names)
        if counts["num_samples"][i]
    ]
    same_error = _mean_or_none(masks["same_error"])
    return {"num_samples": len(target), **metrics, "same_error": same_error, "per_class": per_class}


def prediction_agreement(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> dict[str, float | None]:
    """Agreement of the predictions of student and teacher, and which of them errs.

    Returns:
        ``prediction_agreement``, the fraction of rows with the same predicted class; ``kl``, the mean
        KL(teacher ‖ student) at temperature 1, in nats; and, as fractions of the labeled rows (``None`` without any),
        ``both_wrong``, ``student_only_wrong`` and ``teacher_only_wrong``.

    >>> student, teacher = torch.tensor([[0.0, 2.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> agreement = prediction_agreement(student, teacher, torch.tensor([0, 0]))
    >>> agreement["prediction_agreement"], agreement["student_only_wrong"], round(agreement["kl"], 4)
    (0.5, 0.5, 0.7616)
    """
    student, teacher, _ = _check_pair(student_logits, teacher_logits, target)
    _, masks = _error_masks(student, teacher, target)
    return {
        "prediction_agreement": _mean_or_none(torch.eq(*_predict(student, teacher))),
        "kl": _mean_kl(student, teacher),
        "both_wrong": _mean_or_none(masks["same_error"] | masks["different_error"]),
        "student_only_wrong": _mean_or_none(masks["student_only_wrong"]),
        "teacher_only_wrong": _mean_or_none(masks["teacher_only_wrong"]),
    }


def find_disagreements(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, limit: int = 12
) -> list[dict[str, Any]]:
    """Labeled rows with different predictions of student and teacher, by decreasing confidence of the less confident.

    Returns:
        For at most ``limit`` rows ``index``, ``target``, the classes predicted by ``teacher`` and ``student``, and
        their probabilities ``teacher_confidence`` and ``student_confidence``.

    >>> student, teacher = torch.tensor([[0.0, 2.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> rows = find_disagreements(student, teacher, torch.tensor([0, 0]))
    >>> [(row["index"], row["student"], row["teacher"]) for row in rows]
    [(0, 1, 0)]
    """
    if limit < 0:
        raise LimbeckError(f"limit must be at least 0, got {limit}")
    student, teacher, is_labeled = _check_pair(student_logits, teacher_logits, target)
    student_class, teacher_class = _predict(student, teacher)
    indices = ((student_class != teacher_class) & is_labeled).nonzero()[:, 0]
    student_confidence, teacher_confidence = (
        F.softmax(logits[indices].double(), dim=1).amax(dim=1) for logits in (student, teacher)
    )
    order = torch.minimum(student_confidence, teacher_confidence).argsort(descending=True, stable=True)[:limit]
    columns = {
        "index": indices,
        "target": target.detach().cpu()[indices],
        "teacher": teacher_class[indices],
        "student": student_class[indices],
        "teacher_confidence": teacher_confidence,
        "student_confidence": student_confidence,
    }
    rows = zip(*(column[order].tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def disagreement_rate(first_logits: Tensor, second_logits: Tensor) -> float:
    """Fraction of rows with different predicted classes."""
    first, second = check_logits(first_logits, owner="the first"), check_logits(second_logits, owner="the second")
    check_same_length(first, second)
    if first.shape[1] != second.shape[1]:
        raise LimbeckError(
            f"both networks must have the same classes, got {first.shape[1]} classes and {second.shape[1]}"
        )
    first_class, second_class = _predict(first, second)
    return float((first_class != second_class).double().mean())


def error_correlation(first_wrong: Tensor, second_wrong: Tensor) -> float | None:
    """Pearson correlation (phi) of errors, ``[n]`` booleans; ``None`` where a network errs never or always.

    >>> round(error_correlation(torch.tensor([True, False, True, False]), torch.tensor([True, False, False, False])), 6)
    0.57735
    """
    errors = torch.stack(_check_errors(first_wrong, second_wrong))
    if bool((errors == errors[:, :1]).all(dim=1).any()):
        return None
    return float(torch.corrcoef(errors)[0, 1])


def double_fault(first_wrong: Tensor, second_wrong: Tensor) -> float:
    """Fraction of samples on which both networks err, from ``[n]`` booleans."""
    first, second = _check_errors(first_wrong, second_wrong)
    return float((first * second).mean())


def pairwise_similarity(outputs: Mapping[str, ModelOutputs]) -> list[dict[str, Any]]:
    """Similarity of every pair of networks, from their outputs on the same samples.

    Returns:
        For each pair ``first``, ``second``, ``disagreement`` (all rows), ``error_correlation`` and ``double_fault``
        (labeled rows, ``None`` without any), ``cka`` (unbiased; ``None`` for less than 4 samples) and ``cka_input``:
        ``features`` where both have some, else ``logits``.
    """
    pairs = []
    for (first, a), (second, b) in combinations(outputs.items(), 2):
        disagreement = disagreement_rate(a.logits, b.logits)
        is_labeled = labeled_mask(a.target, num_rows=len(a.logits), num_classes=a.logits.shape[1])
        errors = [(logits.argmax(dim=1) != a.target)[is_labeled] for logits in (a.logits, b.logits)]
        cka_input, x, y = "logits", a.logits, b.logits
        if a.features is not None and b.features is not None:
            cka_input, x, y = "features", a.features, b.features
        pairs.append(
            {
                "first": first,
                "second": second,
                "disagreement": disagreement,
                "error_correlation": error_correlation(*errors) if len(errors[0]) else None,
                "double_fault": double_fault(*errors) if len(errors[0]) else None,
                "cka": unbiased_cka(x, y) if len(x) >= MIN_CKA_SAMPLES else None,
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
    check_same_length(first, second)
    return first.detach().cpu().double(), second.detach().cpu().double()


def _error_masks(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Labels of the labeled rows, and by kind of error whether each of these rows has it."""
    is_labeled = target.detach().cpu() != UNLABELED
    labels, student_class, teacher_class = (
        rows[is_labeled] for rows in (target.detach().cpu(), *_predict(student_logits, teacher_logits))
    )
    student_wrong, teacher_wrong = student_class != labels, teacher_class != labels
    return labels, {
        "same_error": student_wrong & (student_class == teacher_class),
        "different_error": student_wrong & teacher_wrong & (student_class != teacher_class),
        "student_only_wrong": student_wrong & ~teacher_wrong,
        "teacher_only_wrong": teacher_wrong & ~student_wrong,
    }


def _predict(*logits: Tensor) -> list[Tensor]:
    return [rows.detach().cpu().argmax(dim=1) for rows in logits]


def _mean_kl(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for rows_q, rows_p in zip(torch.split(student, _KL_CHUNK_ROWS), torch.split(teacher, _KL_CHUNK_ROWS), strict=True):
        log_q, log_p = F.log_softmax(rows_q.double(), dim=1), F.log_softmax(rows_p.double(), dim=1)
        total += float(F.kl_div(log_q, log_p, reduction="sum", log_target=True))
    return max(total, 0.0) / len(student)  # rounding can make it −1e−17


def _mean_or_none(mask: Tensor) -> float | None:
    return float(mask.double().mean()) if len(mask) else None
