"""The length of a training in steps and epochs, and its seed."""

from __future__ import annotations

import math
import operator
import zlib
from dataclasses import dataclass
from typing import Any, Final, final

from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.data.batch_sampler import BatchStream
from limbeck.data.counter_rng import derive_seed
from limbeck.training.config import TrainingConfig

__all__ = ["TrainingLength", "compute_training_length", "training_seed"]

_SEED_NAMES: Final = {
    "baseline": "alone", "student_only": "alone", "equal_time": "longer", "label_smoothing": "smoothed",
    "no_assistants": "direct", "teacher_training": "teaching", "pretrain": "alone",
}  # fmt: skip
"""The names of phases and stages in records of schema 2, which seeds are derived from, so that weights and records of
that schema are reproduced to the bit. Other names are used as they are."""


def training_seed(seed: int, phase: str, stage: str) -> int:
    """The seed of the ``stage`` of a ``phase`` in a run with ``seed``: a hash of their names, mixed with ``seed``.

    >>> training_seed(0, "baseline", "distill") == derive_seed(0, zlib.crc32(b"alone/distill"))
    True
    """
    names = (_SEED_NAMES.get(name, name) for name in (phase, stage))
    return derive_seed(seed, zlib.crc32("/".join(names).encode()))


@final
@dataclass(frozen=True, slots=True)
class TrainingLength:
    """Length of a training.

    Attributes:
        steps: number of optimizer steps, which schedules and the scheduler depend on.
        steps_per_epoch: steps in an epoch.
        epochs: number of epochs.
        stop_after_steps: the step after which the training ends, at most ``steps``.
        steps_before: steps of the stages before this one.
        total_steps: steps of all stages; 0 if unknown.
    """

    steps: int
    steps_per_epoch: int
    epochs: int
    stop_after_steps: int
    steps_before: int = 0
    total_steps: int = 0

    def progress(self, step: int) -> Progress:
        """Progress after ``step`` steps."""
        return Progress(
            step, self.steps, step // self.steps_per_epoch, self.epochs, self.steps_before, self.total_steps
        )

    @property
    def description(self) -> int | str:
        """The length as compared with that of a checkpoint."""
        early_stop = "" if self.stop_after_steps == self.steps else f", stopped at {self.stop_after_steps}"
        stages = f", after {self.steps_before} of {self.total_steps}" if self.total_steps not in (0, self.steps) else ""
        return f"{self.steps}{early_stop}{stages}" if early_stop or stages else self.steps


def compute_training_length(
    stream: BatchStream, epochs: int | None, steps: int | None, steps_per_epoch: int | None, training: TrainingConfig,
    *, stop_after_steps: int | None = None, steps_before: int = 0, total_steps: int = 0,
) -> TrainingLength:  # fmt: skip
    """Compute the length from either ``epochs`` or ``steps``."""
    epochs, steps, steps_per_epoch, stop_after_steps = (
        None if value is None else _require_int(name, value)
        for name, value in (
            ("epochs", epochs), ("steps", steps), ("steps_per_epoch", steps_per_epoch),
            ("stop_after_steps", stop_after_steps),
        )
    )  # fmt: skip
    steps_before, total_steps = _require_int("steps_before", steps_before), _require_int("total_steps", total_steps)
    if steps_per_epoch is not None and steps_per_epoch < 1:
        raise LimbeckError(f"steps_per_epoch must be at least 1, got {steps_per_epoch}")
    if (epochs is None) == (steps is None):
        raise LimbeckError("the length of a training must be given by either epochs or steps")
    steps_in_epoch = steps_per_epoch or max(1, stream.steps_per_epoch // training.grad_accum_steps)
    length = steps if steps is not None else steps_in_epoch * (epochs or 0)
    if length < 1:
        raise LimbeckError(f"training takes at least one step, not {length}")
    if stop_after_steps is not None and not 1 <= stop_after_steps <= length:
        raise LimbeckError(
            f"a training of {length} steps can stop early after 1 to {length} steps, not after {stop_after_steps}"
        )
    if steps_before < 0 or (total_steps and total_steps < steps_before + length) or (steps_before and not total_steps):
        raise LimbeckError(
            f"steps_before={steps_before} and total_steps={total_steps} do not hold this stage of {length} steps: give "
            "the steps of the stages before it and those of all stages together"
        )
    epochs = math.ceil(length / steps_in_epoch)
    return TrainingLength(length, steps_in_epoch, epochs, stop_after_steps or length, steps_before, total_steps)


def _require_int(name: str, value: Any) -> int:
    """``value``, a Python or numpy integer, as an int."""
    try:
        return operator.index(value)
    except TypeError:
        raise LimbeckError(f"{name} must be an integer, got {value!r}") from None
