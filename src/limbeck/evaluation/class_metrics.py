"""Metrics of a classifier from its logits: accuracy, macro F1, likelihood and calibration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.protocols import Task
from limbeck.data.split import UNLABELED
from limbeck.evaluation.calibration import calibration_error, reliability_bins
from limbeck.evaluation.checks import check_class_names, check_logits, labeled_mask, model_device, move_to_device
from limbeck.losses._ops import hard_labels
from limbeck.utils.eval_mode import eval_mode

__all__ = ["ECE", "MACRO_F1", "NLL", "class_counts", "classification_metrics", "collect_logits", "f1_by_class"]

MACRO_F1: Final = MetricSpec(
    name="macro_f1", label="Macro F1", phrase="macro F1", description="The mean over classes of each class's F1."
)
NLL: Final = MetricSpec(
    name="nll", label="NLL", unit="nats", higher_is_better=False, digits=3,
    description="Mean negative log-likelihood of the target class, in nats.",
)  # fmt: skip
ECE: Final = MetricSpec(
    name="ece", label="Calibration error, ECE", phrase="ECE", unit="", higher_is_better=False, digits=3,
    description="Expected calibration error: the mean absolute difference of confidence and fraction correct over 15 "
    "bins of equal width, weighted by samples.",
)  # fmt: skip
_MIN_CLASSES_FOR_TOP5 = 6
_CHUNK_ROWS = 8192


def classification_metrics(logits: Tensor, target: Tensor, *, class_names: Sequence[str]) -> dict[str, Any]:
    """All metrics of one network on one split, as in the record.

    Args:
        logits: ``[n, classes]``, any float type, any device.
        target: ``[n]`` class indices; rows with −100 are left out.
        class_names: names of the classes in the order of their indices.

    Returns:
        ``num_samples`` (labeled rows), ``accuracy``, ``top5_accuracy`` (``None`` for less than 6 classes),
        ``macro_f1`` (the mean over the classes in the labeled target or the predictions, as in scikit-learn), ``nll``
        (nats per row), ``ece``, ``per_class`` (accuracy of the rows of each class, ``None`` without any) and
        ``reliability`` (15 bins, see :func:`reliability_bins`). Accuracies and errors are fractions.

    Raises:
        LimbeckError: no labeled row, logits that are not finite, or shapes and classes that do not match.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    >>> metrics = classification_metrics(logits, torch.tensor([0, 1, 1]), class_names=["a", "b"])
    >>> round(metrics["accuracy"], 4), round(metrics["macro_f1"], 4), round(metrics["nll"], 4), metrics["top5_accuracy"]
    (0.6667, 0.6667, 0.7936, None)
    """
    logits, num_classes = check_logits(logits), len(class_names)
    check_class_names(class_names, logits)
    is_labeled = labeled_mask(target, num_rows=len(logits), num_classes=num_classes)
    logits, target = logits[is_labeled], target.detach().cpu()[is_labeled].long()
    if not len(target):
        raise LimbeckError(f"metrics need labels, and of {len(is_labeled)} rows none has a label; use a labeled split")
    confidence, predicted, nll = _score_rows(logits, target)
    correct = predicted == target
    in_top5 = (logits.float().topk(min(5, num_classes), dim=1).indices == target[:, None]).any(dim=1)
    counts = [torch.bincount(labels, minlength=num_classes) for labels in (target[correct], predicted, target)]
    f1 = f1_by_class(torch.cat(counts).double())
    return {
        "num_samples": len(target),
        "accuracy": float(correct.double().mean()),
        "top5_accuracy": float(in_top5.double().mean()) if num_classes >= _MIN_CLASSES_FOR_TOP5 else None,
        "macro_f1": float(f1.nanmean()),
        "nll": float(nll.mean()),
        "ece": calibration_error(confidence, correct),
        "per_class": _per_class_accuracy(correct, target, class_names),
        "reliability": reliability_bins(confidence, correct),
    }


def class_counts(predicted: Tensor, target: Tensor, *, classes: int) -> Tensor:
    """What each sample adds to the counts of each class, ``[batch, 3·classes]`` float64.

    The first ``classes`` columns are true positives, then predictions, then targets. A row of NaN has no target.

    Args:
        predicted: ``[batch]`` class indices.
        target: ``[batch]`` class indices, below 0 for no target.
        classes: number of classes.

    >>> class_counts(torch.tensor([1, 0]), torch.tensor([1, 1]), classes=2)
    tensor([[0., 1., 0., 1., 0., 1.],
            [0., 0., 1., 0., 0., 1.]], dtype=torch.float64)
    """
    is_predicted = F.one_hot(predicted, classes)
    is_target = F.one_hot(target.clamp(min=0), classes)
    counts = torch.cat([is_predicted * is_target, is_predicted, is_target], dim=1).double()
    return counts.masked_fill((target < 0)[:, None], torch.nan)


def f1_by_class(sums: Tensor) -> Tensor:
    """2·TP / (predicted + target) of each class, ``[..., classes]``; NaN for a class in neither.

    Macro F1 is its ``nanmean``, as in scikit-learn.

    Args:
        sums: ``[..., 3·classes]``, sums of :func:`class_counts`.

    >>> f1_by_class(torch.tensor([2.0, 0.0, 0.0, 3.0, 1.0, 0.0, 2.0, 2.0, 0.0]))
    tensor([0.8000, 0.0000,    nan])
    """
    true_positives, predicted, target = sums.chunk(3, dim=-1)
    return 2 * true_positives / (predicted + target)  # 0 / 0 is NaN


def collect_logits(model: nn.Module, batches: Iterable[Any], task: Task) -> tuple[Tensor, Tensor]:
    """Logits and targets of ``batches``, by row, in eval mode on the device of ``model``.

    Batches without a target are unlabeled; of probabilities as targets the largest is the label.

    Returns:
        The logits ``[n, classes]`` in float32 and the target ``[n]`` (int64, −100 for no label), both on the CPU.

    Raises:
        LimbeckError: no batch, or a task without logits.

    >>> from limbeck.tasks import Classification
    >>> batches = [(torch.eye(2), torch.tensor([0, 1])), (torch.eye(2)[:1], torch.tensor([1]))]
    >>> collect_logits(nn.Identity(), batches, Classification(2))[1]
    tensor([0, 1, 1])
    """
    all_logits, targets, device = list[Tensor](), list[Tensor](), model_device(model)
    with eval_mode(model):
        for cpu_batch in batches:
            batch = cpu_batch if device.type == "cpu" else move_to_device(cpu_batch, device)
            logits = task.outputs(model, batch).require_logits()
            target = task.target(batch)
            labels = torch.full((len(logits),), UNLABELED) if target is None else hard_labels(target).cpu().long()
            all_logits.append(logits.float().cpu())
            targets.append(labels)
    if not all_logits:
        raise LimbeckError("the split must have at least one batch, got no batch")
    return torch.cat(all_logits), torch.cat(targets)


def _score_rows(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence, predicted class and negative log-likelihood of each row, in float64."""
    chunks: list[tuple[Tensor, Tensor, Tensor]] = []
    # 50,000 rows of 1,000 classes would take 400 MB in float64.
    for rows, labels in zip(torch.split(logits, _CHUNK_ROWS), torch.split(target, _CHUNK_ROWS), strict=True):
        log_p, predicted = F.log_softmax(rows.double(), dim=1), rows.argmax(dim=1)
        confidence = log_p.gather(1, predicted[:, None])[:, 0].exp()
        chunks.append((confidence, predicted, F.nll_loss(log_p, labels, reduction="none")))
    confidence, predicted, nll = (torch.cat(column) for column in zip(*chunks, strict=True))
    return confidence, predicted, nll


def _per_class_accuracy(correct: Tensor, target: Tensor, class_names: Sequence[str]) -> list[dict[str, Any]]:
    num_samples, num_correct = (
        torch.bincount(labels, minlength=len(class_names)).tolist() for labels in (target, target[correct])
    )
    return [
        {"class": name, "accuracy": hits / n if n else None, "num_samples": n}
        for name, hits, n in zip(class_names, num_correct, num_samples, strict=True)
    ]
