"""What several teachers said about the same rows, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses._ops import upcast

__all__ = ["TeacherLogits", "stack_teacher_logits", "teacher_weights"]


class TeacherLogits(NamedTuple):
    """Several teachers on the same rows.

    Attributes:
        names: theirs, in order.
        logits: logits ``[teachers, rows, classes]``, at least float32; zeros where a teacher did not answer.
        valid: ``[teachers, rows]`` booleans, who answered.
        target: the truth by row, as an exchange has it; ``None`` where there is none.
        progress: how far training is.
    """

    names: tuple[str, ...]
    logits: Tensor
    valid: Tensor
    target: Tensor | None
    progress: Progress


def stack_teacher_logits(
    teachers: Mapping[str, Outputs], *, target: Tensor | None = None, progress: Progress = Progress()
) -> TeacherLogits | None:
    """The answers of ``teachers`` side by side, or ``None`` where one of them gave no logits.

    Raises ``LimbeckError`` where they are of different shapes or samples.
    """
    outputs = list(teachers.values())
    if any(output.logits is None for output in outputs):
        return None
    shapes = {name: list(output.require_logits().shape) for name, output in teachers.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        raise LimbeckError(f"teachers answer in different shapes {shapes}: let each term name its teacher")
    if not all(_same_samples(output.row_to_sample, outputs[0].row_to_sample) for output in outputs):
        raise LimbeckError(
            f"the rows of {', '.join(teachers)} belong to different samples: let each term name its teacher"
        )
    logits, valid = (
        torch.stack([upcast(output.require_logits()) for output in outputs]),
        torch.stack([_valid_rows(output) for output in outputs]),
    )
    if any(output.valid is not None for output in outputs):
        # 0 · NaN would poison the mean where an absent teacher's row holds rubbish.
        logits = logits.masked_fill(~valid.unsqueeze(2), 0.0)
    return TeacherLogits(tuple(teachers), logits, valid, target, progress)


def teacher_weights(weights: Mapping[str, float] | None, stacked: TeacherLogits) -> Tensor:
    """``[teachers]``: the weight of each, 1 where none was given.

    Raises ``LimbeckError`` for a weight that belongs to no teacher.
    """
    for name in weights or {}:
        if name not in stacked.names:
            raise LimbeckError(
                f"the combination weighs {name!r}, and no teacher is named so; there are: {suggest_names(name, stacked.names)}"
            )
    return torch.tensor(
        [float((weights or {}).get(name, 1.0)) for name in stacked.names],
        dtype=stacked.logits.dtype, device=stacked.logits.device,
    )  # fmt: skip


def _valid_rows(outputs: Outputs) -> Tensor:
    logits = outputs.require_logits()
    if outputs.valid is None:
        return torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    return outputs.valid if outputs.row_to_sample is None else outputs.valid[outputs.row_to_sample]


def _same_samples(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))
