"""The logits of several teachers for the same rows, stacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses._boxes import have_equal_anchors
from limbeck.losses._ops import upcast

__all__ = ["TeacherLogits", "UnequalLogitsError", "stack_teacher_logits"]


class UnequalLogitsError(LimbeckError):
    """Teachers of an ensemble have logits of different shapes or anchors: other rows (detectors), or other classes."""


class TeacherLogits(NamedTuple):
    """The logits of several teachers for the same rows.

    Attributes:
        names: names of the teachers.
        logits: ``[teachers, rows, classes]``, at least float32; zeros where a teacher has no output.
        valid: ``[teachers, rows]`` booleans, false where a teacher has no output.
        target: target by row, as in :class:`~limbeck.core.loss_context.LossContext`, or ``None``.
        progress: progress of the training.
    """

    names: tuple[str, ...]
    logits: Tensor
    valid: Tensor
    target: Tensor | None
    progress: Progress


def stack_teacher_logits(
    teachers: Mapping[str, Outputs], *, target: Tensor | None = None, progress: Progress = Progress()
) -> TeacherLogits | None:
    """The logits of ``teachers`` stacked, or ``None`` where a teacher has none.

    Raises:
        UnequalLogitsError: they have different shapes, or rows of different ``by_row["anchors"]``.
        LimbeckError: rows of different samples.
    """
    outputs = list(teachers.values())
    if any(output.logits is None for output in outputs):
        return None
    shapes = {name: list(output.require_logits().shape) for name, output in teachers.items()}
    if any(shape != shapes[next(iter(shapes))] for shape in shapes.values()):
        raise UnequalLogitsError(f"logits of an ensemble must have one shape, got {shapes}: set `teacher` of each loss")
    if not all(_same_samples(output.row_to_sample, outputs[0].row_to_sample) for output in outputs):
        raise LimbeckError(
            f"rows of an ensemble must belong to the same samples, and those of {', '.join(teachers)} do not: set "
            "`teacher` of each loss"
        )
    if not all(have_equal_anchors(output, outputs[0]) for output in outputs):
        raise UnequalLogitsError(
            f"rows of an ensemble must have the same anchors, and those of {', '.join(teachers)} do not: set `teacher` "
            "of each loss"
        )
    logits = torch.stack([upcast(output.require_logits()) for output in outputs])
    valid = torch.stack([_valid_rows(output) for output in outputs])
    if any(output.valid is not None for output in outputs):
        logits = logits.masked_fill(~valid.unsqueeze(2), 0.0)  # 0 · NaN would reach the mean
    return TeacherLogits(tuple(teachers), logits, valid, target, progress)


def _valid_rows(outputs: Outputs) -> Tensor:
    logits = outputs.require_logits()
    if outputs.valid is None:
        return torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    return outputs.valid if outputs.row_to_sample is None else outputs.valid[outputs.row_to_sample]


def _same_samples(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))
