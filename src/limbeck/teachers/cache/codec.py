"""Outputs as named tensors ``[batch, ...]`` and back: by the codec of the task, with features and validity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.task import ModelInputs, Task

__all__ = ["FEATURES", "LENGTH", "VALID", "TaskWithCodec", "decode_outputs", "encode_outputs", "require_codec"]

FEATURES: Final = "features."
"""Prefix of the names of hidden features."""
VALID: Final = "valid"
LENGTH: Final = "length"
"""Number of rows of each sample, where samples differ: other tensors of two or more dimensions are padded along axis 1.
"""


class TaskWithCodec(Task, Protocol):
    """The methods of a :class:`~limbeck.core.task.DeployableTask` that a cache needs."""

    def model_inputs(self, batch: Any) -> ModelInputs: ...

    def encode_outputs(self, outputs: Outputs, batch: Any) -> Mapping[str, Tensor]: ...

    def decode_outputs(self, stored: Mapping[str, Tensor], batch: Any) -> Outputs: ...


def require_codec(task: Any) -> TaskWithCodec:
    """``task`` if its outputs can be stored; else an error that names what it lacks."""
    names = ("model_inputs", "encode_outputs", "decode_outputs")
    if missing := [name for name in names if not callable(getattr(task, name, None))]:
        raise LimbeckError(
            f"a cache of teacher outputs needs a task with a codec, and {type(task).__name__} has no "
            f"{', '.join(missing)}: define them (docs/add-a-task.md), or remove the cache"
        )
    checked: TaskWithCodec = task
    return checked


def encode_outputs(outputs: Outputs, batch: Any, task: TaskWithCodec, *, batch_size: int) -> dict[str, Tensor]:
    """The tensors of ``outputs`` that are stored, ``[batch, ...]`` by name.

    Raises:
        LimbeckError: there is none, or the task gives one without an entry for each sample.
    """
    tensors = dict(task.encode_outputs(outputs, batch))
    tensors |= {f"{FEATURES}{name}": tensor for name, tensor in outputs.features.items()}
    if outputs.valid is not None:
        tensors[VALID] = outputs.valid.reshape(-1, 1)
    if not tensors:
        raise LimbeckError("outputs must have logits or features to be cached, got neither")
    for name, tensor in tensors.items():
        if not tensor.ndim or len(tensor) != batch_size:
            raise LimbeckError(
                f"{name!r} of a cached teacher must have one entry for each of the {batch_size} samples, got the shape "
                f"{list(tensor.shape)}: correct encode_outputs of {type(task).__name__}"
            )
    return tensors


def decode_outputs(tensors: Mapping[str, Tensor], batch: Any, task: TaskWithCodec) -> Outputs:
    """The outputs of :func:`encode_outputs` again, for the rows of ``batch``."""
    features = {name.removeprefix(FEATURES): t for name, t in tensors.items() if name.startswith(FEATURES)}
    stored = {name: t for name, t in tensors.items() if not name.startswith(FEATURES) and name != VALID}
    outputs = task.decode_outputs(stored, batch)
    if features:
        outputs = replace(outputs, features={**outputs.features, **features})
    return replace(outputs, valid=tensors[VALID].bool().squeeze(1)) if VALID in tensors else outputs
