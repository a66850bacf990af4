"""Several teachers with one voice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.teachers.combinations import EnsembleMethod, MeanLogits, MeanProbabilities
from limbeck.teachers.voices import stack_teacher_logits

__all__ = ["combine_teachers", "resolve_ensemble"]

_METHODS: Final[Mapping[str, Callable[[], EnsembleMethod]]] = {
    "mean_logits": MeanLogits, "mean_probabilities": MeanProbabilities,
}  # fmt: skip


def combine_teachers(
    teachers: Mapping[str, Outputs], *, ensemble: EnsembleMethod | str = "mean_logits", target: Tensor | None = None,
    progress: Progress = Progress(),
) -> Outputs | None:  # fmt: skip
    """What all teachers say together; the one teacher itself where there is one, ``None`` where there is none.

    Arguments:
        teachers: what each said, by name.
        ensemble: ``mean_logits``, ``mean_probabilities`` (at temperature 1, as its logarithm), or one of
            :mod:`limbeck.teachers.combinations`.
        target: the truth by row, for ways that ask for it.
        progress: how far training is, for ways that ask for it.

    Only logits are combined: a term on features names its teacher. A sample which some teachers did not answer is that
    of those who did; one that nobody answered is not ``valid``, and reaches no term.

    >>> a, b = Outputs(logits=torch.tensor([[0.0, 2.0]])), Outputs(logits=torch.tensor([[0.0, 4.0]]))
    >>> combine_teachers({"a": a, "b": b}).require_logits(), combine_teachers({"a": a, "b": b}, ensemble=MeanLogits({"a": 3.0})).require_logits()
    (tensor([[0., 3.]]), tensor([[0.0000, 2.5000]]))
    """
    method = resolve_ensemble(ensemble)
    if len(teachers) < 2:
        return next(iter(teachers.values()), None)
    stacked = stack_teacher_logits(teachers, target=target, progress=progress)
    if stacked is None:
        return None
    valid_masks = [outputs.valid for outputs in teachers.values() if outputs.valid is not None]
    any_valid = torch.stack(valid_masks).any(dim=0) if len(valid_masks) == len(teachers) else None
    first = next(iter(teachers.values()))
    return Outputs(logits=method.combine(stacked), row_to_sample=first.row_to_sample, valid=any_valid)


def resolve_ensemble(ensemble: EnsembleMethod | str) -> EnsembleMethod:
    """``ensemble`` as an object; a name stands for one with its defaults.

    >>> resolve_ensemble("mean_probabilities")
    MeanProbabilities(weights=None, temperature=1.0)
    """
    if isinstance(ensemble, str):
        if ensemble not in _METHODS:
            raise LimbeckError(f"teachers are combined by {' or '.join(_METHODS)}, not {ensemble!r}")
        return _METHODS[ensemble]()
    if isinstance(ensemble, type) or not isinstance(ensemble, EnsembleMethod):
        raise LimbeckError(f"teachers are combined by an object such as MeanProbabilities(), not {ensemble!r}")
    return ensemble
