"""How each arm looks: an ink, a mark and a line of its own, the same in every picture and table of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from limbeck.report.compare.comparison import Arm
from limbeck.report.plots import style as ink

__all__ = ["Look", "looks"]

_OWN = {"teacher": ("teacher", "s"), "alone": ("alone", "o"), "distilled": ("distilled", "D")}
_INKS = ("t3", "t4", "t5", "t8", "t7", "assistant", "direct")
_MARKS = {"^": "up", "v": "down", "P": "plus", "X": "cross", "p": "penta", "<": "left", ">": "right"}


@final
@dataclass(frozen=True, slots=True)
class Look:
    """The name of an ink, Matplotlib's mark, and the class of the same mark on the page."""

    ink: str
    mark: str
    chip: str
    place: int

    @property
    def colour(self) -> str:
        """What Matplotlib draws with."""
        return ink.INK[self.ink]

    @property
    def dash(self) -> Any:
        """The line."""
        return ink.dash(self.place)


def looks(arms: Sequence[Arm]) -> dict[str, Look]:
    """A look for every arm; the first teacher, control and distilled student keep those of a run's own page.

    >>> looks([Arm(name="alone", role="alone"), Arm(name="wide", role="distilled")])["wide"].ink
    'distilled'
    """
    found: dict[str, Look] = {}
    taken: set[str] = set()
    other = 0
    for arm in arms:
        if arm.role in _OWN and arm.role not in taken:
            taken.add(arm.role)
            name, mark = _OWN[arm.role]
            found[arm.name] = Look(name, mark, mark, 0)
            continue
        mark = tuple(_MARKS)[other % len(_MARKS)]
        # Once every ink is taken the line is another: ink and dash together are still nobody else's.
        found[arm.name] = Look(_INKS[other % len(_INKS)], mark, _MARKS[mark], 1 + other // len(_INKS))
        other += 1
    return found
