"""Operations of losses on logits: temperature scaling, and means over labeled rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.losses._ops import hard_labels, require_same_shape, row_mean, upcast

__all__ = [
    "TemperatureValue",
    "broadcast_temperature",
    "clamped_log_softmax",
    "masked_mean",
    "prepare_logits",
    "require_temperature",
    "scale_logits",
    "temperature_scaled_mean",
    "valid_targets",
]  # fmt: skip

TemperatureValue = float | Tensor


def prepare_logits(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both upcast, the teacher detached; an error where they are not ``[rows, classes]`` of one shape."""
    require_same_shape(student, teacher, name="logits", hint="both must answer the same rows with the same classes")
    if student.ndim != 2:
        raise LimbeckError(
            f"logits are [rows, classes], and these have the shape {list(student.shape)}: flatten pixels or tokens "
            "into rows"
        )
    return upcast(student), upcast(teacher).detach()


def require_temperature(temperature: float | Callable[..., object]) -> None:
    """Raise an error for a temperature that is not above zero; schedules and policies are checked when applied."""
    if isinstance(temperature, type):
        raise LimbeckError(
            f"a temperature is an object such as {temperature.__name__}(), and here it is the class itself"
        )
    if not callable(temperature) and not 0 < temperature < math.inf:
        raise LimbeckError(f"a temperature is a number above zero, not {temperature}")


def broadcast_temperature(temperature: TemperatureValue, logits: Tensor) -> TemperatureValue:
    """``temperature`` as it divides ``logits``: a number above zero as it is, one for each row as ``[rows, 1]``.

    >>> broadcast_temperature(torch.tensor([1.0, 2.0]), torch.zeros(2, 3)).shape
    torch.Size([2, 1])
    """
    if isinstance(temperature, Tensor):
        if temperature.numel() not in (1, len(logits)):
            raise LimbeckError(
                f"a temperature is one number, or one for each row, and here are {temperature.numel()} for "
                f"{len(logits)} rows"
            )
        return temperature.to(logits).reshape(-1, 1)
    if not 0 < temperature < math.inf:
        raise LimbeckError(
            f"a temperature is a number above zero, and here it is {temperature}: let its schedule end above zero"
        )
    return temperature


def scale_logits(logits: Tensor, temperature: TemperatureValue) -> Tensor:
    """``logits / temperature``; unchanged at 1."""
    return logits if isinstance(temperature, float | int) and temperature == 1 else logits / temperature


def clamped_log_softmax(logits: Tensor, temperature: TemperatureValue = 1.0) -> Tensor:
    """The logarithm of softmax(logits / τ), where a class of logit −inf has the lowest finite number.

    So p · log p and its gradient are 0, not 0 · inf.

    >>> clamped_log_softmax(torch.tensor([[0.0, 0.0, -torch.inf]])).exp()
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    log_q = F.log_softmax(scale_logits(logits, temperature), dim=1)
    return log_q.clamp(min=torch.finfo(log_q.dtype).min)


def temperature_scaled_mean(by_row: Tensor, temperature: TemperatureValue) -> Tensor:
    """Mean over rows of ``by_row`` · τ², each row by its own.

    >>> temperature_scaled_mean(torch.tensor([1.0, 2.0]), torch.tensor([[1.0], [2.0]]))
    tensor(4.5000)
    """
    return (
        row_mean(by_row * temperature.reshape(-1) ** 2)
        if isinstance(temperature, Tensor)
        else row_mean(by_row) * temperature**2
    )


def valid_targets(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The class of each row as ``[rows, 1]``, and ``[rows]`` booleans, false where a row has no label.

    ``target`` is ``[rows]`` class indices or ``[rows, classes]`` probabilities, whose argmax is taken.

    >>> valid_targets(torch.zeros(2, 3), torch.tensor([2, -100]))
    (tensor([[2],
            [0]]), tensor([ True, False]))
    """
    if len(logits) != len(target) or target.ndim not in (1, 2):
        raise LimbeckError(
            f"the student answered {len(logits)} rows, and the target has the shape {list(target.shape)}: "
            "give a class number for each row, or its probabilities"
        )
    if target.ndim == 1 and target.is_floating_point():
        raise LimbeckError(f"class numbers are integers, and these targets are {target.dtype}: give target.long()")
    if logits.shape[1] < 2:
        raise LimbeckError(
            f"to part a class from the others takes at least 2 classes, and the logits have the shape "
            f"{list(logits.shape)}"
        )
    labels = hard_labels(target).long()
    return labels.clamp(min=0).unsqueeze(1), labels >= 0


def masked_mean(by_row: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``by_row`` over the rows where ``mask`` is true; zero, with a gradient of zero, where there is none.

    >>> masked_mean(torch.tensor([1.0, 2.0]), torch.tensor([True, False]))
    tensor(1.)
    """
    return by_row.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
