"""How to train: the settings of the loop, apart from what is trained and on what."""

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
    """Settings of one training.

    Arguments:
        optimizer: called with the parameters, gives a torch optimizer: ``partial(torch.optim.SGD, lr=0.1)``.
        scheduler: called with the optimizer and the number of times it will be stepped, gives a torch scheduler.
        scheduler_interval: whether the scheduler is stepped after each optimizer ``step`` or each ``epoch``.
            ``ReduceLROnPlateau`` goes with ``epoch`` and watches the validation loss.
        batch_size: samples in a batch, for each process.
        grad_accum_steps: batches whose gradients make one step.
        max_grad_norm: the largest norm of the gradient; ``None`` leaves it.
        ema_decay: decay of an exponential moving average of the weights (BatchNorm statistics too), which is then what is
            validated and kept; ``None`` keeps the weights themselves.
        early_stopping_patience: epochs without a better validation accuracy after which to stop; ``None`` goes to the
            end.
        keep_weights: the weights to end with: of the ``last`` epoch, or of the ``best`` on validation.
        checkpoint_every_seconds: seconds between checkpoints; one is always written at the end and on a signal.
        num_workers: processes that read batches ahead; 0 reads in this one.
        batch_pairing: how samples are dealt into batches: ``none``; ``same_class``, where the second half of each are
            others of the same classes as the first; ``repeat_previous``, where the first half is the second half of the
            batch before. An epoch has as many batches in each case. See :mod:`limbeck.data.pair_batches`.
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
        for name in ("batch_size", "grad_accum_steps"):
            if getattr(self, name) < 1:
                raise LimbeckError(f"training.{name} is at least 1, not {getattr(self, name)}")
        if self.batch_pairing not in get_args(BatchPairing):
            raise LimbeckError(
                f"training.batch_pairing is one of {', '.join(get_args(BatchPairing))}, not {self.batch_pairing!r}"
            )
        if self.batch_pairing != "none" and self.batch_size % 2:
            raise LimbeckError(
                f"with training.batch_pairing {self.batch_pairing} a batch has two halves, and {self.batch_size} is odd"
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise LimbeckError(f"training.ema_decay is a decay between 0 and 1, such as 0.999, not {self.ema_decay}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise LimbeckError(f"training.max_grad_norm is a norm above 0, not {self.max_grad_norm}")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise LimbeckError(
                f"training.early_stopping_patience is at least 1 epoch, not {self.early_stopping_patience}"
            )
