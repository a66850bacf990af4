"""Operations of losses on logits: temperature scaling, divergences, and means over labeled rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.limits import MAX_TEMPERATURE
from limbeck.losses._ops import IGNORE_INDEX, hard_labels, require_same_shape, row_mean, upcast

TemperatureValue = float | Tensor
_VECTOR_WIDTH: Final = 16  # float32 values of AVX-512


def prepare_logits(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both upcast, the teacher detached; an error where they are not ``[rows, classes]`` of one shape."""
    require_same_shape(student, teacher, name="logits", hint="both need the same rows with the same classes")
    if student.ndim != 2:
        raise LimbeckError(
            f"logits must be [rows, classes], got {list(student.shape)}: flatten pixels or tokens into rows"
        )
    return upcast(student), upcast(teacher).detach()


def log_softmax_pair(
    student: Tensor, teacher: Tensor, temperature: TemperatureValue
) -> tuple[Tensor, Tensor, TemperatureValue]:
    """:func:`clamped_log_softmax` of both logits, log q and log p, and the temperature as it divides logits."""
    student, teacher = prepare_logits(student, teacher)
    temperature = broadcast_temperature(temperature, student)
    return clamped_log_softmax(student, temperature), clamped_log_softmax(teacher, temperature), temperature


def require_temperature(temperature: float | Callable[..., object]) -> None:
    """Raise an error for a temperature outside of its bounds; schedules and policies are checked when applied."""
    if isinstance(temperature, type):
        raise LimbeckError(f"a temperature must be an object such as {temperature.__name__}(), got the class")
    if not callable(temperature) and not 0 < temperature <= MAX_TEMPERATURE:
        raise LimbeckError(f"a temperature must be above zero and at most {MAX_TEMPERATURE:,}, got {temperature}")


def broadcast_temperature(temperature: TemperatureValue, logits: Tensor) -> TemperatureValue:
    """``temperature`` as it divides ``logits``: a number as it is, one for each row as ``[rows, 1]``.

    >>> broadcast_temperature(torch.tensor([1.0, 2.0]), torch.zeros(2, 3)).shape
    torch.Size([2, 1])
    """
    if isinstance(temperature, Tensor):
        if temperature.numel() not in (1, len(logits)):
            raise LimbeckError(
                f"a temperature must be one number or one per row, got {temperature.numel()} for {len(logits)} rows"
            )
        return temperature.to(logits).reshape(-1, 1)
    if not 0 < temperature <= MAX_TEMPERATURE:
        raise LimbeckError(
            f"a temperature must be above zero and at most {MAX_TEMPERATURE:,}, got {temperature}: let its schedule "
            "end above zero"
        )
    return temperature


def scale_logits(logits: Tensor, temperature: TemperatureValue) -> Tensor:
    """``logits / temperature``; unchanged at 1."""
    return logits if isinstance(temperature, float | int) and temperature == 1 else logits / temperature


def log_softmax(logits: Tensor) -> Tensor:
    """``F.log_softmax(logits, dim=1)`` of ``[rows, classes]``, by columns where that is faster."""
    return F.log_softmax(logits.t().contiguous(), dim=0).t() if _is_slow(logits) else F.log_softmax(logits, dim=1)


def _is_slow(logits: Tensor) -> bool:
    """Whether torch's kernel for the last axis takes the classes one by one: fewer than fill a vector of the CPU."""
    return logits.is_cpu and logits.shape[1] < _VECTOR_WIDTH


def clamped_log_softmax(logits: Tensor, temperature: TemperatureValue = 1.0) -> Tensor:
    """The logarithm of softmax(logits / τ), where a class of logit −inf has the lowest finite number.

    So p · log p and its gradient are 0, not 0 · inf. One class is refused: it has probability 1 whatever its logit.

    >>> clamped_log_softmax(torch.tensor([[0.0, 0.0, -torch.inf]])).exp()
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    require_classes(logits)
    log_q = log_softmax(scale_logits(logits, temperature))
    return log_q.clamp(min=torch.finfo(log_q.dtype).min)


def log_sigmoid_pair(logits: Tensor, temperature: TemperatureValue = 1.0) -> tuple[Tensor, Tensor]:
    """The logarithms of sigmoid(logits / τ) and of 1 − it, at least the lowest finite number.

    >>> [value.exp() for value in log_sigmoid_pair(torch.tensor([[0.0, -torch.inf]]))]
    [tensor([[0.5000, 0.0000]]), tensor([[0.5000, 1.0000]])]
    """
    scaled = scale_logits(logits, broadcast_temperature(temperature, logits))
    lowest = torch.finfo(scaled.dtype).min
    return F.logsigmoid(scaled).clamp(min=lowest), F.logsigmoid(-scaled).clamp(min=lowest)


def quality_focal_by_row(student: Tensor, teacher: Tensor, beta: float, temperature: TemperatureValue) -> Tensor:
    """Σ |p − q|^beta · −(p · log q + (1 − p) · log(1 − q)) over classes, ``[rows]``, of sigmoids at ``temperature``.

    >>> quality_focal_by_row(torch.tensor([[2.0]]), torch.tensor([[0.0]]), 1.0, 1.0)
    tensor([0.4291])
    """
    log_q, log_not_q = log_sigmoid_pair(student, temperature)
    p = log_sigmoid_pair(teacher, temperature)[0].exp()
    cross_entropy = -(p * log_q + (1 - p) * log_not_q)
    return ((p - log_q.exp()).abs().pow(beta) * cross_entropy).sum(dim=1)


def require_classes(logits: Tensor) -> None:
    """Raise an error for logits of one class, whose softmax is 1 and whose losses are constant."""
    if logits.shape[1] < 2:
        raise LimbeckError(
            f"logits must have at least 2 classes for a softmax, got {list(logits.shape)}: use LogitMSELoss or a loss "
            "on features for predicted numbers"
        )


def kl_by_row(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p ‖ q) of each row, ``[rows]``, from ``[rows, classes]`` logarithms."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


def kl_mean(log_q: Tensor, log_p: Tensor, temperature: TemperatureValue) -> Tensor:
    """Mean over rows of KL(p ‖ q) · τ², from ``[rows, classes]`` logarithms; zero without rows.

    >>> kl_mean(torch.zeros(2, 1), torch.zeros(2, 1), 4.0)
    tensor(0.)
    """
    if isinstance(temperature, Tensor):
        return temperature_scaled_mean(kl_by_row(log_q, log_p), temperature)
    # One sum and one factor: each operation counts in a step of a small network.
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True) * (temperature**2 / max(len(log_q), 1))


def temperature_scaled_mean(by_row: Tensor, temperature: TemperatureValue) -> Tensor:
    """Mean over rows of ``by_row`` · τ², each row by its own.

    >>> temperature_scaled_mean(torch.tensor([1.0, 2.0]), torch.tensor([[1.0], [2.0]]))
    tensor(4.5000)
    """
    if isinstance(temperature, Tensor):
        return row_mean(by_row * temperature.reshape(-1) ** 2)
    return row_mean(by_row) * temperature**2


def masked_mean(by_row: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``by_row`` over the rows where ``mask`` is true; zero, with a gradient of zero, where there is none.

    >>> masked_mean(torch.tensor([1.0, 2.0]), torch.tensor([True, False]))
    tensor(1.)
    """
    return by_row.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def soft_cross_entropy(logits: Tensor, probabilities: Tensor, mask: Tensor) -> Tensor:
    """Mean over the rows where ``mask`` is true of −Σ p · log q, ``[rows, classes]`` both."""
    # A class of probability 0 and logit −inf contributes 0, not 0 · inf.
    log_q = log_softmax(logits).masked_fill(probabilities == 0, 0.0)
    return masked_mean(-(probabilities * log_q).sum(dim=1), mask)


def cross_entropy(logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the labeled rows of −log q(target), for class indices or probabilities."""
    if target.ndim == 2:
        probabilities = target.to(logits) * (1 - label_smoothing) + label_smoothing / logits.shape[1]
        return soft_cross_entropy(logits, probabilities, (target != 0).any(dim=1))
    # That of torch, so that a supervised training is a plain loop to the last bit.
    total = F.cross_entropy(
        logits, target.long(), label_smoothing=label_smoothing, ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return total / (target != IGNORE_INDEX).sum().clamp(min=1)


def valid_targets(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The class of each row as ``[rows, 1]``, and ``[rows]`` booleans, false where a row has no label.

    ``target`` is ``[rows]`` class indices or ``[rows, classes]`` probabilities, whose argmax is taken.

    >>> valid_targets(torch.zeros(2, 3), torch.tensor([2, -100]))
    (tensor([[2],
            [0]]), tensor([ True, False]))
    """
    require_target_rows(logits, target)
    labels = hard_labels(target).long()
    return labels.clamp(min=0).unsqueeze(1), labels >= 0


def require_target_rows(logits: Tensor, target: Tensor) -> None:
    """Raise an error where ``target`` is not class indices or probabilities of the rows of ``logits``."""
    require_classes(logits)
    if target.ndim not in (1, 2) or len(logits) != len(target) or (target.ndim == 2 and target.shape != logits.shape):
        raise LimbeckError(
            f"the target of logits {list(logits.shape)} must be [rows] class indices or [rows, classes] probabilities, "
            f"got {list(target.shape)}"
        )
    if target.ndim == 1 and target.is_floating_point():
        raise LimbeckError(f"class indices must be integers, got {target.dtype}: give target.long()")
