"""How good a classifier's logits are: accuracy, macro F1, likelihood and calibration.

ECE is the expected calibration error of Guo et al., *On Calibration of Modern Neural Networks* (2017,
https://arxiv.org/abs/1706.04599): 15 bins of equal width ``(low, high]`` over the largest softmax probability.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Task
from limbeck.data.split import UNLABELED
from limbeck.evaluation.checks import check_logits, evaluation_mode, labeled_mask
from limbeck.losses._ops import hard_labels

__all__ = ["calibration_error", "classification_metrics", "collect_logits", "reliability_bins"]

_NUM_BINS = 15
_MIN_CLASSES_FOR_TOP5 = 6
_CHUNK_ROWS = 8192


def classification_metrics(logits: Tensor, target: Tensor, *, class_names: Sequence[str]) -> dict[str, Any]:
    """Every quality figure of one network on one part, as it stands in the record.

    Args:
        logits: ``[n, classes]``, any float type, any device.
        target: ``[n]`` class numbers; rows with −100 have no label and are left out.
        class_names: the classes' names, in the order of their numbers.

    Returns:
        ``num_samples`` (labelled rows), ``accuracy``, ``top5_accuracy`` (``None`` under 6 classes), ``macro_f1``, ``nll`` (nats a row),
        ``ece``, ``per_class`` (accuracy of the rows that are of the class, ``None`` where there are none) and
        ``reliability`` (15 bins: their edges, mean confidence and accuracy, ``None`` where empty). Accuracies and
        errors are fractions from 0 to 1.

        Macro F1 is the mean over the classes that occur in the labelled target or in the predictions: a class that
        is predicted and never true counts as 0, and one that is neither is left out (as scikit-learn does).

    Raises:
        LimbeckError: no labelled row, logits that are not finite, or shapes and classes that do not fit.

    >>> found = classification_metrics(torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), torch.tensor([0, 1, 1]), class_names=["a", "b"])
    >>> round(found["accuracy"], 4), round(found["macro_f1"], 4), round(found["nll"], 4), found["top5_accuracy"]
    (0.6667, 0.6667, 0.7936, None)
    """
    logits = check_logits(logits, owner="the")
    if len(class_names) != logits.shape[1]:
        raise LimbeckError(
            f"the logits have {logits.shape[1]} classes, and {len(class_names)} names were given for them"
        )
    is_labeled = labeled_mask(target, num_rows=len(logits), num_classes=len(class_names))
    logits, target = logits[is_labeled], target.detach().cpu()[is_labeled].long()
    if not len(target):
        raise LimbeckError(
            f"there is nothing to measure on: of {len(is_labeled)} rows none has a label; evaluate on a labelled part"
        )
    confidence, predicted, nll = _score_rows(logits, target)
    correct = predicted == target
    return {
        "num_samples": len(target),
        "accuracy": float(correct.double().mean()),
        "top5_accuracy": _top5_accuracy(logits, target) if len(class_names) >= _MIN_CLASSES_FOR_TOP5 else None,
        "macro_f1": _macro_f1(predicted, target, len(class_names)),
        "nll": float(nll.mean()),
        "ece": calibration_error(confidence, correct),
        "per_class": _per_class_accuracy(correct, target, class_names),
        "reliability": reliability_bins(confidence, correct),
    }


def collect_logits(model: nn.Module, batches: Iterable[Any], task: Task) -> tuple[Tensor, Tensor]:
    """What ``model`` says about ``batches``, and what is true, by row.

    The network runs in eval mode without gradients, on the device where it is; its modes are put back. Batches that
    carry no truth count as unlabelled; probabilities as targets become their likeliest class.

    Returns:
        The logits ``[n, classes]`` in float32 and the target ``[n]`` (int64, −100 for no label), both on the CPU.

    Raises:
        LimbeckError: there is no batch, or the task gives no logits.

    >>> from limbeck.tasks import Classification
    >>> two = [(torch.eye(2), torch.tensor([0, 1])), (torch.eye(2)[:1], torch.tensor([1]))]
    >>> collect_logits(nn.Identity(), two, Classification(2))[1]
    tensor([0, 1, 1])
    """
    all_logits: list[Tensor] = []
    targets: list[Tensor] = []
    first_parameter = next(iter(model.parameters()), None)
    with evaluation_mode(model):
        for raw_batch in batches:
            batch = (
                raw_batch
                if first_parameter is None or first_parameter.is_cpu
                else _move_to_device(raw_batch, first_parameter.device)
            )
            logits = task.outputs(model, batch).require_logits()
            all_logits.append(logits.float().cpu())
            targets.append(_hard_labels(task.target(batch), num_rows=len(logits)))
    if not all_logits:
        raise LimbeckError("there is nothing to measure on: the part gave no batch")
    return torch.cat(all_logits), torch.cat(targets)


def reliability_bins(confidence: Tensor, correct: Tensor) -> list[dict[str, Any]]:
    """The 15 bins of ECE, of ``confidence`` (``[n]`` float64) and whether it was ``correct`` (``[n]`` booleans).

    >>> found = reliability_bins(torch.tensor([0.8, 0.8], dtype=torch.float64), torch.tensor([True, False]))
    >>> [(one["confidence"], one["accuracy"]) for one in found if one["num_samples"]]
    [(0.8, 0.5)]
    """
    num_samples, confidence_sum, correct_sum = _bin_sums(confidence, correct)
    edges = _bin_edges()
    return [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "confidence": float(confidence_sum[i] / num_samples[i]) if num_samples[i] else None,
            "accuracy": float(correct_sum[i] / num_samples[i]) if num_samples[i] else None,
            "num_samples": int(num_samples[i]),
        }
        for i in range(_NUM_BINS)
    ]


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """ECE, of ``confidence`` (``[n]`` float64) and whether it was ``correct`` (``[n]`` booleans).

    Ours: torchmetrics keeps a confidence of exactly 1 in a sixteenth bin of its own.

    >>> round(calibration_error(torch.tensor([0.8, 0.8], dtype=torch.float64), torch.tensor([True, False])), 4)
    0.3
    """
    _, confidence_sum, correct_sum = _bin_sums(confidence, correct)
    return float((confidence_sum - correct_sum).abs().sum() / len(correct))


def _score_rows(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence, predicted class and negative log-likelihood of each row, in float64."""
    chunks: list[tuple[Tensor, Tensor, Tensor]] = []
    # In pieces: 50,000 rows of 1,000 classes would take 400 MB at once in float64.
    for rows, labels in zip(torch.split(logits, _CHUNK_ROWS), torch.split(target, _CHUNK_ROWS), strict=True):
        log_p = F.log_softmax(rows.double(), dim=1)
        predicted = rows.argmax(dim=1)
        chunks.append(
            (log_p.gather(1, predicted[:, None])[:, 0].exp(), predicted, F.nll_loss(log_p, labels, reduction="none"))
        )
    confidence, predicted, nll = (torch.cat(column) for column in zip(*chunks, strict=True))
    return confidence, predicted, nll


def _top5_accuracy(logits: Tensor, target: Tensor) -> float:
    return float((logits.float().topk(5, dim=1).indices == target[:, None]).any(dim=1).double().mean())


def _macro_f1(predicted: Tensor, target: Tensor, num_classes: int) -> float:
    from torchmetrics.functional.classification import multiclass_f1_score

    return float(multiclass_f1_score(predicted, target, num_classes=num_classes, average="macro", validate_args=False))


def _per_class_accuracy(correct: Tensor, target: Tensor, class_names: Sequence[str]) -> list[dict[str, Any]]:
    num_examples = torch.bincount(target, minlength=len(class_names)).tolist()
    num_correct = torch.bincount(target[correct], minlength=len(class_names)).tolist()
    return [
        {"class": name, "accuracy": hits / n if n else None, "num_samples": n}
        for name, hits, n in zip(class_names, num_correct, num_examples, strict=True)
    ]


def _bin_edges() -> Tensor:
    return torch.linspace(0, 1, _NUM_BINS + 1, dtype=torch.float64)


def _bin_sums(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many samples each bin has, and the sums of their confidence and of those that are right."""
    bin_index = torch.bucketize(confidence.contiguous(), _bin_edges()[1:-1])
    num_samples = torch.bincount(bin_index, minlength=_NUM_BINS)
    confidence_sum = torch.bincount(bin_index, weights=confidence, minlength=_NUM_BINS)
    return num_samples, confidence_sum, torch.bincount(bin_index, weights=correct.double(), minlength=_NUM_BINS)


def _hard_labels(target: Tensor | None, *, num_rows: int) -> Tensor:
    if target is None:
        return torch.full((num_rows,), UNLABELED)
    return hard_labels(target).cpu().long()


def _move_to_device(item: Any, device: torch.device) -> Any:
    """``item`` with every tensor in it on ``device``."""
    if isinstance(item, Tensor):
        return item.to(device)
    if isinstance(item, Mapping):
        return {name: _move_to_device(value, device) for name, value in item.items()}
    if isinstance(item, tuple | list):
        return [_move_to_device(value, device) for value in item]
    return item
