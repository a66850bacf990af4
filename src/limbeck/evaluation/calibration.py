"""Calibration before and after temperature scaling (Guo et al., 2017, https://arxiv.org/abs/1706.04599).

One number divides all logits, fitted by NLL on samples that are not those it is then measured on. It changes no
prediction, so accuracy stays as it was.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.checks import check_logits, labeled_mask
from limbeck.evaluation.classification_metrics import calibration_error

__all__ = ["calibration_error_from_logits", "fit_temperature", "split_halves", "temperature_scaling_metrics"]

_TEMPERATURE_RANGE = (0.02, 50.0)


def fit_temperature(logits: Tensor, target: Tensor) -> float:
    """The temperature in 0.02 to 50 at which ``logits / temperature`` has the lowest NLL, found in float64.

    NLL is convex in one over the temperature, so there is one lowest place. Where every answer is right, colder is
    always better, and the end of the range is given.

    Args:
        logits: ``[n, classes]``.
        target: ``[n]`` class numbers, −100 where there is no label.

    Raises:
        LimbeckError: no labelled row, or logits that are not finite.

    >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 1])), 3)
    3.641
    """
    from scipy.optimize import minimize_scalar

    rows, labels = _labeled_rows(logits, target)
    low, high = (math.log(end) for end in _TEMPERATURE_RANGE)
    result = minimize_scalar(
        lambda log: _nll(rows / math.exp(log), labels), bounds=(low, high), method="bounded", options={"xatol": 1e-6}
    )
    return math.exp(float(result.x))


def temperature_scaling_metrics(
    fit_data: tuple[Tensor, Tensor], eval_data: tuple[Tensor, Tensor]
) -> dict[str, Any]:  # fmt: skip
    """ECE and NLL on ``eval_data`` before and after scaling by the temperature of ``fit_data``, both (logits, target).

    Returns:
        ``temperature``; ``before`` and ``after``, each ``ece`` and ``nll``; ``num_fit_samples`` and ``num_samples``, the labelled
        samples of either.

    >>> sure = torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
    >>> found = temperature_scaling_metrics(sure, sure)
    >>> round(found["before"]["ece"], 3), round(found["after"]["ece"], 3)
    (0.232, 0.0)
    """
    temperature = fit_temperature(*fit_data)
    rows, labels = _labeled_rows(*eval_data)
    return {
        "temperature": temperature,
        **{
            stage: {"ece": calibration_error_from_logits(rows / scale, labels), "nll": _nll(rows / scale, labels)}
            for stage, scale in (("before", 1.0), ("after", temperature))
        },
        "num_fit_samples": int((fit_data[1] >= 0).sum()), "num_samples": len(labels),
    }  # fmt: skip


def calibration_error_from_logits(logits: Tensor, target: Tensor) -> float:
    """The expected calibration error over 15 bins of equal width, of ``[n, classes]`` logits that all have a label.

    >>> round(calibration_error_from_logits(torch.tensor([[4.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1])), 3)
    0.482
    """
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    return calibration_error(confidence, predicted == target)


def split_halves(n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """``n`` places dealt into two halves by seed: one to fit on, one to tell on.

    >>> [len(half) for half in split_halves(5, seed=0)]
    [2, 3]
    """
    if n < 2:
        raise LimbeckError(f"a temperature is fitted on one half and told on the other, which takes 2 samples, not {n}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[: n // 2], order[n // 2 :]


def _labeled_rows(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    rows = check_logits(logits, owner="the")
    is_labeled = labeled_mask(target, num_rows=len(rows), num_classes=rows.shape[1])
    if not bool(is_labeled.any()):
        raise LimbeckError("there is nothing to calibrate on: no sample has a label")
    return rows[is_labeled].double(), target.detach().cpu()[is_labeled]


def _nll(rows: Tensor, labels: Tensor) -> float:
    return float(F.cross_entropy(rows, labels))
