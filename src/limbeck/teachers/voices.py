"""What several teachers said about the same rows, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, nearest
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses._ops import widen

__all__ = ["Voices", "heard_together", "shares"]


class Voices(NamedTuple):
    """Several teachers on the same rows.

    Attributes:
        names: theirs, in order.
        rows: logits ``[teachers, rows, classes]``, at least float32; zeros where a teacher did not answer.
        here: ``[teachers, rows]`` booleans, who answered.
        target: the truth by row, as an exchange has it; ``None`` where there is none.
        progress: how far training is.
    """

    names: tuple[str, ...]
    rows: Tensor
    here: Tensor
    target: Tensor | None
    progress: Progress


def heard_together(
    teachers: Mapping[str, Outputs], *, target: Tensor | None = None, progress: Progress = Progress()
) -> Voices | None:
    """The answers of ``teachers`` side by side, or ``None`` where one of them gave no logits.

    Raises ``LimbeckError`` where they are of different shapes or samples.
    """
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
    rows, here = torch.stack([widen(one.rows()) for one in said]), torch.stack([_answered(one) for one in said])
    if any(one.present is not None for one in said):
        # 0 · NaN would poison the mean where an absent teacher's row holds rubbish.
        rows = rows.masked_fill(~here.unsqueeze(2), 0.0)
    return Voices(tuple(teachers), rows, here, target, progress)


def shares(weights: Mapping[str, float] | None, voices: Voices) -> Tensor:
    """``[teachers]``: the weight of each, 1 where none was given.

    Raises ``LimbeckError`` for a weight that belongs to no teacher.
    """
    for name in weights or {}:
        if name not in voices.names:
            raise LimbeckError(
                f"the combination weighs {name!r}, and no teacher is named so; there are: {nearest(name, voices.names)}"
            )
    return torch.tensor(
        [float((weights or {}).get(name, 1.0)) for name in voices.names],
        dtype=voices.rows.dtype, device=voices.rows.device,
    )  # fmt: skip


def _answered(outputs: Outputs) -> Tensor:
    rows = outputs.rows()
    if outputs.present is None:
        return torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    return outputs.present if outputs.sample is None else outputs.present[outputs.sample]


def _same_samples(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))
