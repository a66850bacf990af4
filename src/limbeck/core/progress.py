"""How far training is: the one clock that schedules read."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.core.errors import LimbeckError

__all__ = ["Progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands: ``step`` of ``steps`` optimizer steps done, ``epoch`` of ``epochs`` begun, from zero.

    ``steps == 0`` says that the length of training is not known; then asking for the fraction is an error rather than
    a silent zero, since a schedule would never move.

    >>> Progress(step=25, steps=100).fraction
    0.25
    """

    step: int = 0
    steps: int = 0
    epoch: int = 0
    epochs: int = 0

    @property
    def fraction(self) -> float:
        """Share of training that is over, from 0 to 1."""
        if self.steps < 1:
            raise LimbeckError(
                "a schedule needs to know how long training is, and it is not known: set "
                "`distiller.progress = limbeck.Progress(step=..., steps=...)` in your loop, or train with limbeck.fit"
            )
        return min(self.step / self.steps, 1.0)
