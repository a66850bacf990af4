"""Settings of the training loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, final

import torch
from torch.optim import Optimizer

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.utils.settings import TrainingSettings
from limbeck.utils.validation import Number, translate_errors

__all__ = ["TrainingConfig"]

_DEFAULT_LR = 1e-3


@final
class TrainingConfig(TrainingSettings):
    """Settings of a training, those of :class:`limbeck.utils.settings.TrainingSettings` and these.

    Args:
        optimizer: called with the parameters, returns a torch optimizer: ``partial(torch.optim.SGD, lr=0.1)``; or the
            name of one in ``torch.optim``, such as ``"adamw"``.
        lr: learning rate of an optimizer that is given by name; ``None``: 0.001.
        scheduler: called with the optimizer and the number of scheduler steps, returns a torch scheduler.
        scheduler_interval: step the scheduler after each optimizer ``step`` or each ``epoch``; ``ReduceLROnPlateau``
            needs ``epoch`` and gets the validation loss.
        checkpoint_every_seconds: seconds between checkpoints; there is also one at the end and on a signal.

    Raises:
        LimbeckError: if a value is out of range.

    >>> TrainingConfig(optimizer="sgd", lr=0.1).optimizer
    functools.partial(<class 'torch.optim.sgd.SGD'>, lr=0.1)
    """

    optimizer: Callable[..., Any]
    scheduler: Callable[..., Any] | None = None
    scheduler_interval: Literal["step", "epoch"] = "step"
    checkpoint_every_seconds: Number = 30.0

    def __init__(
        self, *, optimizer: Callable[..., Any] | str = "AdamW", lr: float | None = None, **settings: Any
    ) -> None:
        with translate_errors("training"):
            super().__init__(optimizer=_resolve_optimizer(optimizer, lr), **settings)


def _resolve_optimizer(optimizer: Callable[..., Any] | str, lr: float | None) -> Any:
    """The function of the parameters that ``optimizer`` names."""
    if not isinstance(optimizer, str):
        if lr is not None:
            raise LimbeckError(
                f"training.lr is for an optimizer given by name, got {lr} and {optimizer!r}: write lr into the "
                "optimizer, as partial(torch.optim.SGD, lr=0.1)"
            )
        return optimizer
    classes: dict[str, Any] = {
        name: value for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
    }  # fmt: skip
    by_lower_name = {name.lower(): value for name, value in classes.items()}
    if (optimizer_class := by_lower_name.get(optimizer.lower())) is None:
        raise LimbeckError(
            f"training.optimizer must be one of torch.optim, got {optimizer!r}; the nearest: "
            f"{suggest_names(optimizer, classes)}"
        )
    return partial(optimizer_class, lr=_DEFAULT_LR if lr is None else lr)
