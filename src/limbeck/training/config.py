"""Settings of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, final

import torch
from torch import nn
from torch.optim import Optimizer

from limbeck.utils.settings import TrainingSettings
from limbeck.utils.validation import Number, translate_errors

__all__ = ["TrainingConfig"]


def _default_optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


@final
class TrainingConfig(TrainingSettings):
    """Settings of a training, those of :class:`limbeck.utils.settings.TrainingSettings` and these.

    Args:
        optimizer: called with the parameters, returns a torch optimizer: ``partial(torch.optim.SGD, lr=0.1)``.
        scheduler: called with the optimizer and the number of scheduler steps, returns a torch scheduler.
        scheduler_interval: step the scheduler after each optimizer ``step`` or each ``epoch``; ``ReduceLROnPlateau``
            needs ``epoch`` and gets the validation loss.
        checkpoint_every_seconds: seconds between checkpoints; there is also one at the end and on a signal.

    Raises:
        LimbeckError: if a value is out of range.
    """

    optimizer: Callable[..., Any] = _default_optimizer
    scheduler: Callable[..., Any] | None = None
    scheduler_interval: Literal["step", "epoch"] = "step"
    checkpoint_every_seconds: Number = 30.0

    def __init__(self, **settings: Any) -> None:
        with translate_errors("training"):
            super().__init__(**settings)
