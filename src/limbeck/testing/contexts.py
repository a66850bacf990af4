"""Random loss contexts for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress

Shapes = Mapping[str, Sequence[int]]


def make_context(
    *, rows: int = 6, classes: int = 5, student_feature_shapes: Shapes | None = None,
    teacher_feature_shapes: Shapes | None = None, teacher_names: Sequence[str] = ("teacher",), scale: float = 1.0,
    dtype: torch.dtype = torch.float32, seed: int = 0, progress: Progress = Progress(step=1, steps=4),
) -> LossContext:  # fmt: skip
    """Outputs of a student and teachers for ``rows`` samples; all tensors require gradients.

    Args:
        rows: samples in the batch, each one row.
        classes: width of the logits.
        student_feature_shapes: shape by layer, without the batch; by default ``{"mid": (8, 4, 4)}``.
        teacher_feature_shapes: the same for every teacher; by default as the student's.
        teacher_names: names; with one teacher its outputs are the ensemble, else the mean of logits is.
        scale: standard deviation of logits and features.
        dtype: of all floats.
        seed: of all numbers.
        progress: progress of training.

    >>> make_context(rows=2, classes=3).student.require_logits().shape
    torch.Size([2, 3])
    """
    generator = torch.Generator().manual_seed(seed)

    def random_tensor(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(dtype).requires_grad_()

    def random_outputs(feature_shapes: Shapes) -> Outputs:
        features = {name: random_tensor(rows, *shape) for name, shape in feature_shapes.items()}
        return Outputs(logits=random_tensor(rows, classes), features=features)

    student_shapes = {"mid": (8, 4, 4)} if student_feature_shapes is None else student_feature_shapes
    teacher_shapes = student_shapes if teacher_feature_shapes is None else teacher_feature_shapes
    student = random_outputs(student_shapes)
    teachers = {name: random_outputs(teacher_shapes) for name in teacher_names}
    outputs = list(teachers.values())
    ensemble = outputs[0] if len(outputs) == 1 else None
    if len(outputs) > 1:
        ensemble = Outputs(logits=torch.stack([item.require_logits() for item in outputs]).mean(0))
    target = torch.randint(classes, (rows,), generator=generator)
    return LossContext(
        student=student, teachers=teachers, teacher=ensemble, target=target, sample_ids=torch.arange(rows),
        progress=progress,
    )  # fmt: skip
