"""Expected calibration error and temperature scaling (Guo et al., 2017, https://arxiv.org/abs/1706.04599).

ECE has 15 bins of equal width ``(low, high]`` over the largest softmax probability; unlike in torchmetrics, a
confidence of exactly 1 is in the last bin. ``confidence`` is ``[n]`` float64, ``correct`` ``[n]`` booleans.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.checks import check_logits, labeled_mask

__all__ = [
    "calibration_error",
    "calibration_error_from_logits",
    "fit_temperature",
    "reliability_bins",
    "split_halves",
    "temperature_scaling_metrics",
]

_NUM_BINS = 15
_BIN_EDGES = torch.linspace(0, 1, _NUM_BINS + 1, dtype=torch.float64)
_TEMPERATURE_RANGE = (0.02, 50.0)


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """ECE of predictions.

    >>> round(calibration_error(torch.tensor([0.8, 0.8], dtype=torch.float64), torch.tensor([True, False])), 4)
    0.3
    """
    _, confidence_sum, correct_sum = _bin_sums(confidence, correct)
    return float((confidence_sum - correct_sum).abs().sum() / len(correct))


def calibration_error_from_logits(logits: Tensor, target: Tensor) -> float:
    """ECE of ``[n, classes]`` logits whose rows are all labeled."""
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    return calibration_error(confidence, predicted == target)


def reliability_bins(confidence: Tensor, correct: Tensor) -> list[dict[str, Any]]:
    """The bins of the ECE, for a reliability diagram.

    >>> bins = reliability_bins(torch.tensor([0.8, 0.8], dtype=torch.float64), torch.tensor([True, False]))
    >>> [(row["confidence"], row["fraction_correct"]) for row in bins if row["num_samples"]]
    [(0.8, 0.5)]
    """
    edges, sums = _BIN_EDGES.tolist(), (column.tolist() for column in _bin_sums(confidence, correct))
    return [
        {
            "low": low,
            "high": high,
            "confidence": confidence_sum / num_samples if num_samples else None,
            "fraction_correct": correct_sum / num_samples if num_samples else None,
            "num_samples": num_samples,
        }
        for low, high, num_samples, confidence_sum, correct_sum in zip(edges[:-1], edges[1:], *sums, strict=True)
    ]


def fit_temperature(logits: Tensor, target: Tensor) -> float:
    """Temperature in 0.02 to 50 that minimizes the NLL of ``logits / temperature``, in float64.

    NLL is convex in one over the temperature. Where it falls towards an end of the range (every prediction is correct
    or, on average, wrong), the result is that end; where all logits of each row are equal, it is 1.

    Args:
        logits: ``[n, classes]``.
        target: ``[n]`` class indices, −100 for no label.

    Raises:
        LimbeckError: no labeled row, or logits that are not finite.

    >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 1])), 3)
    3.641
    """
    from scipy.optimize import brentq  # type: ignore[import-untyped,unused-ignore]

    rows, labels = _labeled_rows(logits, target)
    low, high = (math.log(end) for end in _TEMPERATURE_RANGE)

    def slope(temperature: float) -> float:
        """Derivative of the NLL by one over the temperature: the mean logit minus that of the label."""
        mean_logit = ((rows / temperature).softmax(dim=1) * rows).sum(dim=1)
        return float((mean_logit - rows.gather(1, labels[:, None])[:, 0]).mean())

    coldest, hottest = _TEMPERATURE_RANGE
    if slope(coldest) == slope(hottest) == 0:  # equal logits, which no temperature changes
        return 1.0
    if slope(coldest) <= 0:
        return coldest
    if slope(hottest) >= 0:
        return hottest
    return math.exp(float(brentq(lambda log: slope(math.exp(log)), low, high, xtol=1e-10)))


def temperature_scaling_metrics(fit_data: tuple[Tensor, Tensor], eval_data: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """ECE and NLL on ``eval_data`` before and after scaling by the temperature of ``fit_data``, both (logits, target).

    Returns:
        ``temperature``; ``before`` and ``after``, each with ``ece`` and ``nll``; ``num_fit_samples`` and
        ``num_samples``, the numbers of labeled samples.
    """
    temperature = fit_temperature(*fit_data)
    rows, labels = _labeled_rows(*eval_data)
    before, after = (
        {"ece": calibration_error_from_logits(rows / scale, labels), "nll": _nll(rows / scale, labels)}
        for scale in (1.0, temperature)
    )
    num_samples = {"num_fit_samples": int((fit_data[1] >= 0).sum()), "num_samples": len(labels)}
    return {"temperature": temperature, "before": before, "after": after, **num_samples}


def split_halves(n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Random split of ``n`` indices into two halves: one to fit on, one to evaluate on."""
    if n < 2:
        raise LimbeckError(f"fitting and evaluating a temperature takes 2 samples, got {n}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[: n // 2], order[n // 2 :]


def _bin_sums(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of samples, sum of confidences and number of correct predictions of each bin."""
    bin_index = torch.bucketize(confidence.contiguous(), _BIN_EDGES[1:-1])
    num_samples = torch.bincount(bin_index, minlength=_NUM_BINS)
    confidence_sum = torch.bincount(bin_index, weights=confidence, minlength=_NUM_BINS)
    return num_samples, confidence_sum, torch.bincount(bin_index, weights=correct.double(), minlength=_NUM_BINS)


def _labeled_rows(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    rows = check_logits(logits)
    is_labeled = labeled_mask(target, num_rows=len(rows), num_classes=rows.shape[1])
    if not bool(is_labeled.any()):
        raise LimbeckError("calibration needs at least one labeled sample, and no sample has a label")
    return rows[is_labeled].double(), target.detach().cpu()[is_labeled]


def _nll(rows: Tensor, labels: Tensor) -> float:
    return float(F.cross_entropy(rows, labels))
