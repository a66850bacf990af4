"""How taps and costs of a method are said."""

from __future__ import annotations

from limbeck.workflows.list_losses.cost import Cost
from limbeck.workflows.list_losses.describe import Method

__all__ = ["kept", "learned", "tapped"]


def tapped(method: Method) -> str:
    """The arguments that name taps."""
    return ", ".join(method.taps) or "–"


def learned(cost: Cost) -> str:
    """How many numbers it learns.

    >>> learned(Cost(learns=544, keeps=0)), learned(Cost(learns=0, keeps=0)), learned(Cost(learns=None, keeps=None))
    ('544', '–', 'yes')
    """
    return "yes" if cost.learns is None else f"{cost.learns:,}" if cost.learns else "–"


def kept(cost: Cost) -> str:
    """What it remembers.

    >>> kept(Cost(learns=0, keeps=0)), kept(Cost(learns=0, keeps=80)), kept(Cost(learns=0, keeps=16 * 2**20))
    ('–', '80 B', '16.0 MB')
    """
    if cost.keeps is None:
        return "?"
    for unit, size in (("MB", 2**20), ("kB", 2**10)):
        if cost.keeps >= size:
            return f"{cost.keeps / size:.1f} {unit}"
    return f"{cost.keeps} B" if cost.keeps else "–"
