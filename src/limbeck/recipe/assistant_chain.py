"""Who learns from whom where assistants stand between the teachers and the student.

One after the other: Mirzadeh et al., AAAI 2020, https://arxiv.org/abs/1902.03393. Densely guided, by all before it: Son
et al., ICCV 2021, https://arxiv.org/abs/2009.08825.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

__all__ = ["Guided", "Link", "links"]

Guided = Literal["last", "dense"]


class Link(NamedTuple):
    """One training: who learns, and from whom."""

    learner: str
    guides: tuple[str, ...]


def links(teachers: Sequence[str], learners: Sequence[str], *, guided: Guided = "last") -> list[Link]:
    """Each of ``learners`` (from large to small) with its guides, in the order of training.

    With ``last`` the first learns from the teachers and every other from the one before it; with ``dense`` each learns
    from the teachers and from all before it.

    >>> [link.guides for link in links(["big"], ["mid", "small", "student"])]
    [('big',), ('mid',), ('small',)]
    >>> [link.guides for link in links(["big"], ["mid", "small", "student"], guided="dense")]
    [('big',), ('big', 'mid'), ('big', 'mid', 'small')]
    """
    found = []
    guides = tuple(teachers)
    for learner in learners:
        found.append(Link(learner, guides))
        guides = (*guides, learner) if guided == "dense" else (learner,)
    return found
