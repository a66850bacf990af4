"""Exchanges made up for tests: random, seeded, of any shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from limbeck.core.loss_context import Exchange
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress

__all__ = ["make_exchange"]

Shapes = Mapping[str, Sequence[int]]


def make_exchange(
    *, rows: int = 6, classes: int = 5, student_taps: Shapes | None = None, teacher_taps: Shapes | None = None,
    teachers: Sequence[str] = ("teacher",), scale: float = 1.0, dtype: torch.dtype = torch.float32, seed: int = 0,
    progress: Progress = Progress(step=1, steps=4),
) -> Exchange:  # fmt: skip
    """A student and its teachers on one batch of ``rows`` samples, all of whose tensors ask for gradients.

    Arguments:
        rows: samples in the batch, each one row.
        classes: width of the logits.
        student_taps: for each tap, its shape without the batch: ``{"mid": (8, 4, 4)}``; by default that one.
        teacher_taps: the same for every teacher; by default as the student's.
        teachers: their names; the first one's outputs are the combination as well when it is alone, else the mean.
        scale: standard deviation of logits and features.
        dtype: of all floats.
        seed: of all numbers.
        progress: how far training is.

    >>> make_exchange(rows=2, classes=3).student.rows().shape
    torch.Size([2, 3])
    """
    draw = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=draw) * scale).to(dtype).requires_grad_()

    def outputs(taps: Shapes) -> Outputs:
        heard = {name: numbers(rows, *shape) for name, shape in taps.items()}
        return Outputs(logits=numbers(rows, classes), taps=heard)

    shapes = {"mid": (8, 4, 4)} if student_taps is None else student_taps
    student = outputs(shapes)
    others = {name: outputs(shapes if teacher_taps is None else teacher_taps) for name in teachers}
    said = list(others.values())
    together = said[0] if len(said) == 1 else None
    if len(said) > 1:
        together = Outputs(logits=torch.stack([one.rows() for one in said]).mean(0))
    target = torch.randint(classes, (rows,), generator=draw)
    return Exchange(
        student=student, teachers=others, teacher=together, target=target, index=torch.arange(rows), progress=progress
    )
