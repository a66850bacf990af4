"""Arithmetic that losses on responses share: logits softened by a temperature, and the rows whose class is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.losses._ops import likeliest, mean_rows, require_same_shape, widen

__all__ = [
    "Tau", "known_classes", "log_probabilities", "logits_pair", "mean_known", "mean_softened", "require_temperature",
    "softened", "temperature",
]  # fmt: skip

Tau = float | Tensor


def logits_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both widened, the teacher without its gradient; an error where they are not ``[rows, classes]`` of one shape."""
    require_same_shape(student, teacher, what="logits", hint="both must answer the same rows with the same classes")
    if student.ndim != 2:
        raise LimbeckError(
            f"logits are [rows, classes], and these have the shape {list(student.shape)}: flatten pixels or tokens "
            "into rows"
        )
    return widen(student), widen(teacher).detach()


def require_temperature(tau: float | Callable[..., object]) -> None:
    """Refuse a temperature that is not above zero; what a schedule or a policy says is seen when it says it."""
    if isinstance(tau, type):
        raise LimbeckError(f"a temperature is an object such as {tau.__name__}(), and here it is the class itself")
    if not callable(tau) and not 0 < tau < math.inf:
        raise LimbeckError(f"a temperature is a number above zero, not {tau}")


def temperature(tau: Tau, logits: Tensor) -> Tau:
    """``tau`` as it divides ``logits``: a number above zero as it is, one for each row as ``[rows, 1]``.

    >>> temperature(torch.tensor([1.0, 2.0]), torch.zeros(2, 3)).shape
    torch.Size([2, 1])
    """
    if isinstance(tau, Tensor):
        if tau.numel() not in (1, len(logits)):
            raise LimbeckError(
                f"a temperature is one number, or one for each row, and here are {tau.numel()} for {len(logits)} rows"
            )
        return tau.to(logits).reshape(-1, 1)
    if not 0 < tau < math.inf:
        raise LimbeckError(
            f"a temperature is a number above zero, and here it is {tau}: let its schedule end above zero"
        )
    return tau


def softened(logits: Tensor, tau: Tau) -> Tensor:
    """``logits / tau``; themselves at 1, the default of several losses, as a small network feels each operation."""
    return logits if isinstance(tau, float | int) and tau == 1 else logits / tau


def log_probabilities(logits: Tensor, tau: Tau = 1.0) -> Tensor:
    """The logarithm of softmax(logits / tau), where a class ruled out (a logit of −inf) has the lowest finite number.

    Its share p · log p is then 0, as it should be, and not 0 · inf; likewise every gradient.

    >>> log_probabilities(torch.tensor([[0.0, 0.0, -torch.inf]])).exp()
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    log_q = F.log_softmax(softened(logits, tau), dim=1)
    return log_q.clamp(min=torch.finfo(log_q.dtype).min)


def mean_softened(by_row: Tensor, tau: Tau) -> Tensor:
    """Mean over rows of ``by_row`` · tau², each row by its own.

    >>> mean_softened(torch.tensor([1.0, 2.0]), torch.tensor([[1.0], [2.0]]))
    tensor(4.5000)
    """
    return mean_rows(by_row * tau.reshape(-1) ** 2) if isinstance(tau, Tensor) else mean_rows(by_row) * tau**2


def known_classes(student: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The class of each row as ``[rows, 1]``, and ``[rows]`` booleans, false where a row has no label.

    ``target`` is ``[rows]`` class numbers or ``[rows, classes]`` probabilities, of which the likeliest counts.

    >>> known_classes(torch.zeros(2, 3), torch.tensor([2, -100]))
    (tensor([[2],
            [0]]), tensor([ True, False]))
    """
    if len(student) != len(target) or target.ndim not in (1, 2):
        raise LimbeckError(
            f"the student answered {len(student)} rows, and the target has the shape {list(target.shape)}: "
            "give a class number for each row, or its probabilities"
        )
    if target.ndim == 1 and target.is_floating_point():
        raise LimbeckError(f"class numbers are integers, and these targets are {target.dtype}: give target.long()")
    if student.shape[1] < 2:
        raise LimbeckError(
            f"to part a class from the others takes at least 2 classes, and the logits have the shape "
            f"{list(student.shape)}"
        )
    classes = likeliest(target).long()
    return classes.clamp(min=0).unsqueeze(1), classes >= 0


def mean_known(by_row: Tensor, known: Tensor) -> Tensor:
    """Mean of ``by_row`` over the rows that are ``known``; zero, with a gradient of zero, where none is.

    >>> mean_known(torch.tensor([1.0, 2.0]), torch.tensor([True, False]))
    tensor(1.)
    """
    return by_row.masked_fill(~known, 0.0).sum() / known.sum().clamp(min=1)
