"""Several teachers with one voice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.teachers.combinations import Combination, MeanLogits, MeanProbabilities
from limbeck.teachers.voices import heard_together

__all__ = ["combine", "way"]

_NAMED: Final[Mapping[str, Callable[[], Combination]]] = {
    "mean_logits": MeanLogits, "mean_probabilities": MeanProbabilities,
}  # fmt: skip


def combine(
    teachers: Mapping[str, Outputs], *, how: Combination | str = "mean_logits", target: Tensor | None = None,
    progress: Progress = Progress(),
) -> Outputs | None:  # fmt: skip
    """What all teachers say together; the one teacher itself where there is one, ``None`` where there is none.

    Arguments:
        teachers: what each said, by name.
        how: ``mean_logits``, ``mean_probabilities`` (at temperature 1, as its logarithm), or one of
            :mod:`limbeck.teachers.combinations`.
        target: the truth by row, for ways that ask for it.
        progress: how far training is, for ways that ask for it.

    Only logits are combined: a term on features names its teacher. A sample which some teachers did not answer is that
    of those who did; one that nobody answered is not ``present``, and reaches no term.

    >>> a, b = Outputs(logits=torch.tensor([[0.0, 2.0]])), Outputs(logits=torch.tensor([[0.0, 4.0]]))
    >>> combine({"a": a, "b": b}).rows(), combine({"a": a, "b": b}, how=MeanLogits({"a": 3.0})).rows()
    (tensor([[0., 3.]]), tensor([[0.0000, 2.5000]]))
    """
    speaking = way(how)
    if len(teachers) < 2:
        return next(iter(teachers.values()), None)
    voices = heard_together(teachers, target=target, progress=progress)
    if voices is None:
        return None
    present = [one.present for one in teachers.values() if one.present is not None]
    anyone = torch.stack(present).any(dim=0) if len(present) == len(teachers) else None
    first = next(iter(teachers.values()))
    return Outputs(logits=speaking.voice(voices), sample=first.sample, present=anyone)


def way(how: Combination | str) -> Combination:
    """``how`` as an object; a name stands for one with its defaults.

    >>> way("mean_probabilities")
    MeanProbabilities(weights=None, tau=1.0)
    """
    if isinstance(how, str):
        if how not in _NAMED:
            raise LimbeckError(f"teachers are combined by {' or '.join(_NAMED)}, not {how!r}")
        return _NAMED[how]()
    if isinstance(how, type) or not isinstance(how, Combination):
        raise LimbeckError(f"teachers are combined by an object such as MeanProbabilities(), not {how!r}")
    return how
