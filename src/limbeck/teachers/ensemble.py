"""Several teachers with one voice.

Averaging logits and averaging probabilities are different ensembles: the first is a geometric mean of the teachers'
distributions, the second an arithmetic one (what an ensemble's vote is). Both are here, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.numeric import widen
from limbeck.core.outputs import Outputs

__all__ = ["Combination", "combine"]

Combination = Literal["mean_logits", "mean_probabilities"]


def combine(teachers: Mapping[str, Outputs], *, how: Combination = "mean_logits") -> Outputs | None:
    """What all teachers say together; the one teacher itself where there is one, ``None`` where there is none.

    ``mean_logits`` averages logits; ``mean_probabilities`` averages the probabilities at temperature 1 and gives their
    logarithm. Only logits are combined: a term on features names its teacher. A sample which some teachers did not
    answer is averaged over those who did.

    >>> a, b = Outputs(logits=torch.tensor([[0.0, 2.0]])), Outputs(logits=torch.tensor([[0.0, 4.0]]))
    >>> combine({"a": a, "b": b}).rows()
    tensor([[0., 3.]])
    """
    if how not in _MEANS:
        raise LimbeckError(f"teachers are combined by {' or '.join(_MEANS)}, not {how!r}")
    if len(teachers) < 2:
        return next(iter(teachers.values()), None)
    said = list(teachers.values())
    if any(one.logits is None for one in said):
        return None
    shapes = {name: list(one.rows().shape) for name, one in teachers.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        raise LimbeckError(f"teachers answer in different shapes {shapes}: let each term name its teacher")
    if not all(_same_samples(one.sample, said[0].sample) for one in said):
        raise LimbeckError(
            f"the rows of {', '.join(teachers)} belong to different samples: let each term name its teacher"
        )
    rows = torch.stack([widen(one.rows()) for one in said])
    if all(one.present is None for one in said):
        weight = torch.full(rows.shape[:2], 1 / len(said), dtype=rows.dtype, device=rows.device)
    else:
        here = torch.stack([_answered(one) for one in said]).to(rows)
        weight = here / here.sum(dim=0).clamp(min=1)
    present = [one.present for one in said if one.present is not None]
    anyone = torch.stack(present).any(dim=0) if len(present) == len(said) else None
    # 0 · NaN would poison the mean where an absent teacher's row holds rubbish.
    rows = rows.masked_fill((weight == 0).unsqueeze(2), 0.0)
    return replace(Outputs(), logits=_MEANS[how](rows, weight), sample=said[0].sample, present=anyone)


def _answered(outputs: Outputs) -> Tensor:
    rows = outputs.rows()
    if outputs.present is None:
        return torch.ones(len(rows), device=rows.device)
    return outputs.present if outputs.sample is None else outputs.present[outputs.sample]


def _same_samples(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def _mean_logits(rows: Tensor, weight: Tensor) -> Tensor:
    return (rows * weight.unsqueeze(2)).sum(dim=0)


def _mean_probabilities(rows: Tensor, weight: Tensor) -> Tensor:
    return torch.logsumexp(F.log_softmax(rows, dim=2) + weight.log().unsqueeze(2), dim=0)


_MEANS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean_logits": _mean_logits,
    "mean_probabilities": _mean_probabilities,
}
