"""How far training is: the one clock that schedules read."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.core.errors import LimbeckError

__all__ = ["Progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands: ``step`` of ``steps`` optimizer steps done, ``epoch`` of ``epochs`` begun, from zero.

    Where training has several stages, these count within the stage; ``steps_before`` are the steps of the stages before
    it, and ``total_steps`` those of all stages together.

    ``steps == 0`` says that the length of training is not known; then asking for the fraction is an error rather than
    a silent zero, since a schedule would never move. ``total_steps == 0`` says the same of all stages together.

    >>> now = Progress(step=25, steps=100, steps_before=300, total_steps=400)
    >>> now.fraction, now.overall_fraction
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
        """Share of this stage that is over, from 0 to 1; where training has one stage, of training."""
        if self.steps < 1:
            raise LimbeckError(
                "a schedule needs to know how long training is, and it is not known: set "
                "`distiller.progress = limbeck.Progress(step=..., steps=...)` in your loop, or train with limbeck.fit"
            )
        return min(self.step / self.steps, 1.0)

    @property
    def overall_fraction(self) -> float:
        """Share of all stages together that is over, from 0 to 1."""
        return self.overall().fraction

    def overall(self) -> Progress:
        """The clock of all stages together, as one long stage.

        It counts steps only: a stage with a batch size of its own has epochs of its own.
        """
        if self.total_steps < 1:
            raise LimbeckError(
                "a schedule over all stages needs to know how long they are together, and it is not known: set "
                "`distiller.progress = limbeck.Progress(step=..., steps=..., steps_before=..., total_steps=...)` in your loop, or "
                "give steps_before= and total_steps= to limbeck.fit"
            )
        return Progress(self.steps_before + self.step, self.total_steps, total_steps=self.total_steps)
