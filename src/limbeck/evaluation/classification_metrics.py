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
from limbeck.data.split import UNLABELLED
from limbeck.evaluation.checks import checked, evaluating, labelled
from limbeck.losses._ops import likeliest

__all__ = ["calibration_error", "predictions", "quality", "reliability"]

_BINS = 15
_TOP5_FROM = 6
_CHUNK = 8192


def quality(logits: Tensor, target: Tensor, *, classes: Sequence[str]) -> dict[str, Any]:
    """Every quality figure of one network on one part, as it stands in the record.

    Args:
        logits: ``[n, classes]``, any float type, any device.
        target: ``[n]`` class numbers; rows with −100 have no label and are left out.
        classes: the classes' names, in the order of their numbers.

    Returns:
        ``examples`` (labelled rows), ``top1``, ``top5`` (``None`` under 6 classes), ``macro_f1``, ``nll`` (nats a row),
        ``ece``, ``per_class`` (accuracy of the rows that are of the class, ``None`` where there are none) and
        ``reliability`` (15 bins: their edges, mean confidence and accuracy, ``None`` where empty). Accuracies and
        errors are fractions from 0 to 1.

        Macro F1 is the mean over the classes that occur in the labelled target or in the predictions: a class that
        is predicted and never true counts as 0, and one that is neither is left out (as scikit-learn does).

    Raises:
        LimbeckError: no labelled row, logits that are not finite, or shapes and classes that do not fit.

    >>> found = quality(torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), torch.tensor([0, 1, 1]), classes=["a", "b"])
    >>> round(found["top1"], 4), round(found["macro_f1"], 4), round(found["nll"], 4), found["top5"]
    (0.6667, 0.6667, 0.7936, None)
    """
    logits = checked(logits, whose="the")
    if len(classes) != logits.shape[1]:
        raise LimbeckError(f"the logits have {logits.shape[1]} classes, and {len(classes)} names were given for them")
    known = labelled(target, rows=len(logits), classes=len(classes))
    logits, target = logits[known], target.detach().cpu()[known].long()
    if not len(target):
        raise LimbeckError(
            f"there is nothing to measure on: of {len(known)} rows none has a label; evaluate on a labelled part"
        )
    confidence, predicted, nll = _by_row(logits, target)
    right = predicted == target
    return {
        "examples": len(target),
        "top1": float(right.double().mean()),
        "top5": _top5(logits, target) if len(classes) >= _TOP5_FROM else None,
        "macro_f1": _macro_f1(predicted, target, len(classes)),
        "nll": float(nll.mean()),
        "ece": calibration_error(confidence, right),
        "per_class": _per_class(right, target, classes),
        "reliability": reliability(confidence, right),
    }


def predictions(model: nn.Module, batches: Iterable[Any], task: Task) -> tuple[Tensor, Tensor]:
    """What ``model`` says about ``batches``, and what is true, by row.

    The network runs in eval mode without gradients, on the device where it is; its modes are put back. Batches that
    carry no truth count as unlabelled; probabilities as targets become their likeliest class.

    Returns:
        The logits ``[n, classes]`` in float32 and the target ``[n]`` (int64, −100 for no label), both on the CPU.

    Raises:
        LimbeckError: there is no batch, or the task gives no logits.

    >>> from limbeck.tasks import Classification
    >>> two = [(torch.eye(2), torch.tensor([0, 1])), (torch.eye(2)[:1], torch.tensor([1]))]
    >>> predictions(nn.Identity(), two, Classification(2))[1]
    tensor([0, 1, 1])
    """
    said: list[Tensor] = []
    truth: list[Tensor] = []
    held = next(iter(model.parameters()), None)
    with evaluating(model):
        for item in batches:
            batch = item if held is None or held.is_cpu else _moved(item, held.device)
            rows = task.outputs(model, batch).rows()
            said.append(rows.float().cpu())
            truth.append(_hard(task.target(batch), rows=len(rows)))
    if not said:
        raise LimbeckError("there is nothing to measure on: the part gave no batch")
    return torch.cat(said), torch.cat(truth)


def reliability(confidence: Tensor, right: Tensor) -> list[dict[str, Any]]:
    """The 15 bins of ECE, of ``confidence`` (``[n]`` float64) and whether it was ``right`` (``[n]`` booleans).

    >>> found = reliability(torch.tensor([0.8, 0.8], dtype=torch.float64), torch.tensor([True, False]))
    >>> [(one["confidence"], one["accuracy"]) for one in found if one["examples"]]
    [(0.8, 0.5)]
    """
    many, sure, good = _binned(confidence, right)
    edges = _edges()
    return [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "confidence": float(sure[i] / many[i]) if many[i] else None,
            "accuracy": float(good[i] / many[i]) if many[i] else None,
            "examples": int(many[i]),
        }
        for i in range(_BINS)
    ]


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """ECE, of ``confidence`` (``[n]`` float64) and whether it was ``right`` (``[n]`` booleans).

    Ours: torchmetrics keeps a confidence of exactly 1 in a sixteenth bin of its own.

    >>> round(calibration_error(torch.tensor([0.8, 0.8], dtype=torch.float64), torch.tensor([True, False])), 4)
    0.3
    """
    _, sure, good = _binned(confidence, right)
    return float((sure - good).abs().sum() / len(right))


def _by_row(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence, predicted class and negative log-likelihood of each row, in float64."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    # In pieces: 50,000 rows of 1,000 classes would take 400 MB at once in float64.
    for rows, truth in zip(torch.split(logits, _CHUNK), torch.split(target, _CHUNK), strict=True):
        log_p = F.log_softmax(rows.double(), dim=1)
        predicted = rows.argmax(dim=1)
        found.append(
            (log_p.gather(1, predicted[:, None])[:, 0].exp(), predicted, F.nll_loss(log_p, truth, reduction="none"))
        )
    confidence, predicted, nll = (torch.cat(column) for column in zip(*found, strict=True))
    return confidence, predicted, nll


def _top5(logits: Tensor, target: Tensor) -> float:
    return float((logits.float().topk(5, dim=1).indices == target[:, None]).any(dim=1).double().mean())


def _macro_f1(predicted: Tensor, target: Tensor, classes: int) -> float:
    from torchmetrics.functional.classification import multiclass_f1_score

    return float(multiclass_f1_score(predicted, target, num_classes=classes, average="macro", validate_args=False))


def _per_class(right: Tensor, target: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    many = torch.bincount(target, minlength=len(classes)).tolist()
    good = torch.bincount(target[right], minlength=len(classes)).tolist()
    return [
        {"class": name, "accuracy": hits / n if n else None, "examples": n}
        for name, hits, n in zip(classes, good, many, strict=True)
    ]


def _edges() -> Tensor:
    return torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)


def _binned(confidence: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many samples each bin has, and the sums of their confidence and of those that are right."""
    place = torch.bucketize(confidence.contiguous(), _edges()[1:-1])
    many = torch.bincount(place, minlength=_BINS)
    sure = torch.bincount(place, weights=confidence, minlength=_BINS)
    return many, sure, torch.bincount(place, weights=right.double(), minlength=_BINS)


def _hard(target: Tensor | None, *, rows: int) -> Tensor:
    if target is None:
        return torch.full((rows,), UNLABELLED)
    return likeliest(target).cpu().long()


def _moved(item: Any, device: torch.device) -> Any:
    """``item`` with every tensor in it on ``device``."""
    if isinstance(item, Tensor):
        return item.to(device)
    if isinstance(item, Mapping):
        return {name: _moved(value, device) for name, value in item.items()}
    if isinstance(item, tuple | list):
        return [_moved(value, device) for value in item]
    return item
