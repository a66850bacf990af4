"""Settings of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from limbeck.core.errors import LimbeckError
from limbeck.data.pair_batches import BatchPairing

__all__ = ["TrainingConfig"]


def _default_optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Settings of a training.

    Args:
        optimizer: called with the parameters, returns a torch optimizer: ``partial(torch.optim.SGD, lr=0.1)``.
        scheduler: called with the optimizer and the number of scheduler steps, returns a torch scheduler.
        scheduler_interval: step the scheduler after each optimizer ``step`` or each ``epoch``; ``ReduceLROnPlateau``
            needs ``epoch`` and gets the validation loss.
        batch_size: batch size per process.
        grad_accum_steps: number of batches whose gradients are accumulated for an optimizer step.
        max_grad_norm: norm to clip the gradient to; ``None`` does not clip.
        ema_decay: decay of an exponential moving average of the weights and BatchNorm statistics, which is then
            validated and kept; ``None`` keeps the weights themselves.
        early_stopping_patience: stop after this many epochs without a better validation accuracy; ``None``: never.
        keep_weights: keep the weights of the ``last`` epoch, or of the ``best`` on the validation split.
        checkpoint_every_seconds: seconds between checkpoints; there is also one at the end and on a signal.
        num_workers: number of processes that load batches; 0 loads in this process.
        batch_pairing: ``none``; ``same_class``: the second half of a batch has other samples of the classes of the
            first; ``repeat_previous``: the first half repeats the second half of the previous batch. See
            :mod:`limbeck.data.pair_batches`.
    """

    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = _default_optimizer
    scheduler: Callable[[Optimizer, int], LRScheduler | Any] | None = None
    scheduler_interval: Literal["step", "epoch"] = "step"
    batch_size: int = 64
    grad_accum_steps: int = 1
    max_grad_norm: float | None = None
    ema_decay: float | None = None
    early_stopping_patience: int | None = None
    keep_weights: Literal["last", "best"] = "last"
    checkpoint_every_seconds: float = 30.0
    num_workers: int = 0
    batch_pairing: BatchPairing = "none"

    def __post_init__(self) -> None:
        for name in ("batch_size", "grad_accum_steps", "early_stopping_patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise LimbeckError(f"training.{name} must be at least 1, got {value}")
        if self.batch_pairing not in get_args(BatchPairing):
            raise LimbeckError(
                f"training.batch_pairing must be one of {', '.join(get_args(BatchPairing))}, got {self.batch_pairing!r}"
            )
        if self.batch_pairing != "none" and self.batch_size % 2:
            raise LimbeckError(
                f"training.batch_size must be even with batch_pairing {self.batch_pairing}, got {self.batch_size}"
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise LimbeckError(f"training.ema_decay must be between 0 and 1, such as 0.999, got {self.ema_decay}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise LimbeckError(f"training.max_grad_norm must be above 0, got {self.max_grad_norm}")
