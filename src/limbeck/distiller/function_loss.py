"""Functions as losses: ``fn(student, teacher)`` on logits, or ``fn(context)``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias, final

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss

__all__ = ["FunctionLoss", "LossFactory", "LossLike", "as_loss", "loss_arguments"]

LossLike: TypeAlias = Loss | Callable[[Tensor, Tensor], Tensor]
"""A loss, or a function of the logits of student and teacher."""
_PAIR = ("student", "teacher")
_TARGET_LOSSES: Final = (nn.CrossEntropyLoss, nn.NLLLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.KLDivLoss)
_TARGET_FUNCTIONS: Final = (
    F.cross_entropy, F.nll_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.kl_div,
)  # fmt: skip
"""Losses of torch whose second argument is labels or probabilities: with the logits of a teacher they mean nothing."""


@final
class FunctionLoss(nn.Module):
    """A function of the logits of student and teacher as a loss.

    Args:
        fn: takes two float32 tensors ``[rows, classes]``, of which the second has no gradient, and returns a scalar. An
            ``nn.Module`` is trained with the student.
        settings: further keyword arguments of ``fn``.

    Raises:
        LimbeckError: ``fn`` is a loss of torch that takes labels or probabilities, such as ``nn.CrossEntropyLoss``; or,
            when it is called, changes its arguments in place.

    >>> import torch
    >>> from limbeck.testing import make_context
    >>> loss = FunctionLoss(torch.nn.functional.mse_loss, {"reduction": "sum"})
    >>> loss(make_context()).shape
    torch.Size([])
    """

    knowledge: ClassVar[str] = "response"

    def __init__(self, fn: Callable[..., Tensor], settings: dict[str, Any] | None = None) -> None:
        super().__init__()
        function = fn.func if isinstance(fn, functools.partial) else fn
        if type(function) in _TARGET_LOSSES or function in _TARGET_FUNCTIONS:
            raise LimbeckError(
                f"a loss of student and teacher must take two logits, got {_name(function)} of torch, which takes "
                "labels or probabilities: use CrossEntropyLoss (labels) or KDLoss (a teacher) of limbeck.losses"
            )
        self.fn, self.settings = fn, settings or {}

    def forward(self, context: LossContext) -> Tensor:
        """The value of the function."""
        student, teacher = context.pair()
        logits = student.require_logits().float(), teacher.require_logits().detach().float()
        versions = [tensor._version for tensor in logits]
        value = self.fn(*logits, **self.settings)
        if versions != [tensor._version for tensor in logits]:
            raise LimbeckError(
                f"the loss {_name(self.fn)} must not change its arguments in place, which other losses read: write "
                "student = student / 4 for student /= 4"
            )
        return value

    def extra_repr(self) -> str:
        settings = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"{_name(self.fn)}{settings}"


@final
@dataclass(frozen=True)
class LossFactory:
    """Builds the loss of a function that a recipe names.

    Attributes:
        fn: the function, of ``student`` and ``teacher``, or of ``context``.
        needs_teacher: as in :class:`limbeck.core.protocols.Loss`.
        supervised: likewise.
    """

    fn: Callable[..., Tensor]
    needs_teacher: bool
    supervised: bool

    def __call__(self, **settings: Any) -> Any:
        """A new loss with these keyword arguments of the function."""
        if self.needs_teacher and loss_arguments(self.fn) == _PAIR:
            return FunctionLoss(self.fn, settings)
        return functools.update_wrapper(functools.partial(self.fn, **settings), self.fn) if settings else self.fn

    @classmethod
    def from_function(cls, fn: Callable[..., Tensor]) -> LossFactory:
        """The factory of ``fn``, whose attributes say what it needs, as those of a class."""
        is_pair = loss_arguments(fn) == _PAIR
        return cls(fn, is_pair or getattr(fn, "needs_teacher", False), getattr(fn, "supervised", False))


def loss_arguments(fn: object) -> tuple[str, ...]:
    """The arguments that a loss function gets: ``("student", "teacher")``, ``("context",)``, or none of these.

    >>> loss_arguments(lambda student, teacher, power=2: ...), loss_arguments(lambda width: ...)
    (('student', 'teacher'), ())
    """
    names = tuple(inspect.signature(fn).parameters) if inspect.isfunction(fn) else ()
    return next((prefix for prefix in (_PAIR, ("context",)) if names[: len(prefix)] == prefix), ())


def as_loss(name: str, loss: Any) -> Any:
    """``loss``, or a function of two arguments as :class:`FunctionLoss`.

    Raises:
        LimbeckError: it cannot be called, needs three arguments or more, or two in another order, or takes labels
            (:class:`FunctionLoss`).
    """
    if isinstance(loss, type) or not callable(loss):
        raise LimbeckError(f"the loss {name!r} must be an object such as KDLoss(), got {loss!r}")
    try:
        parameters = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters.values()
    except (TypeError, ValueError):  # a function of C
        return loss
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p.name for p in parameters if p.kind in positional and p.default is p.empty]
    if len(required) > len(_PAIR):
        raise LimbeckError(
            f"the loss {name!r} must take a LossContext, or the logits of student and teacher, got the arguments "
            f"{', '.join(required)}: give the others a default, or read them from a LossContext"
        )
    if tuple(required) == _PAIR[::-1]:
        raise LimbeckError(f"the loss {name!r} must take student and teacher, in this order, got teacher and student")
    return FunctionLoss(loss) if len(required) == len(_PAIR) else loss


def _name(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__qualname__", None) or repr(fn))
