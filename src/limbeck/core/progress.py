"""The progress of training, which schedules read."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.core.errors import LimbeckError

__all__ = ["Progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of training: ``step`` of ``steps`` optimizer steps and ``epoch`` of ``epochs``, counted from 0.

    With several stages these count within the stage; ``steps_before`` is the number of steps of earlier stages and
    ``total_steps`` that of all stages. A length of 0 is unknown; reading a fraction of it is an error.

    >>> progress = Progress(step=25, steps=100, steps_before=300, total_steps=400)
    >>> progress.fraction, progress.overall().fraction
    (0.25, 0.8125)
    """

    step: int = 0
    steps: int = 0
    epoch: int = 0
    epochs: int = 0
    steps_before: int = 0
    total_steps: int = 0

    @property
    def fraction(self) -> float:
        """The completed fraction of this stage, from 0 to 1."""
        if self.steps < 1:
            raise LimbeckError(
                "a schedule needs the number of steps, which is unknown: set "
                "`distiller.progress = limbeck.Progress(step=..., steps=...)` in your loop, or train with limbeck.fit"
            )
        return min(self.step / self.steps, 1.0)

    def overall(self) -> Progress:
        """The progress of all stages as one, in steps only: epochs of stages may differ in length."""
        if self.total_steps < 1:
            raise LimbeckError(
                "a schedule over all stages needs their number of steps, which is unknown: set `distiller.progress = "
                "limbeck.Progress(step=..., steps=..., steps_before=..., total_steps=...)` in your loop, or give "
                "steps_before= and total_steps= to limbeck.fit"
            )
        return Progress(self.steps_before + self.step, self.total_steps, total_steps=self.total_steps)
