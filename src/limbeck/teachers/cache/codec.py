"""Outputs as named tensors ``[batch, ...]`` and back: by the codec of the task, with features and validity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.task import ModelInputs, Task
from limbeck.utils.frames import mask_frames

__all__ = [
    "FEATURES",
    "FEATURE_LENGTH",
    "LENGTH",
    "ROW_FEATURES",
    "VALID",
    "TaskWithCodec",
    "decode_outputs",
    "encode_outputs",
    "require_codec",
]

FEATURES: Final = "features."
"""Prefix of the names of hidden features."""
ROW_FEATURES: Final = "row_features."
"""Prefix of the names of hidden features of padded sequences, of which the padding is not stored."""
VALID: Final = "valid"
LENGTH: Final = "length"
"""Number of rows of each sample, where samples differ: other tensors of two or more dimensions are padded along axis 1.
"""
FEATURE_LENGTH: Final = "feature_length"
"""Number of positions of the features of each sample, where the task stores no ``length``."""


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
        LimbeckError: there is none, or the task gives one without an entry for each sample; or features of padded
            sequences have another number of positions than the logits.
    """
    tensors = dict(task.encode_outputs(outputs, batch))
    input_mask = getattr(task, "input_mask", lambda _: None)(batch)
    for name, tensor in outputs.features.items():
        if input_mask is not None and tensor.ndim == 3:
            length_name = LENGTH if LENGTH in tensors else FEATURE_LENGTH
            lengths = _feature_lengths(name, tensor, input_mask)
            if not torch.equal(tensors.setdefault(length_name, lengths).cpu(), lengths.cpu()):
                raise LimbeckError(
                    f"features of padded sequences in a cache must have the positions of the logits, or of the other "
                    f"features, and {name!r} has others: use other layers, or remove the cache"
                )
            tensors[f"{ROW_FEATURES}{name}"] = tensor
        else:
            tensors[f"{FEATURES}{name}"] = tensor
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
    features, stored = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in tensors.items():
        if name.startswith((FEATURES, ROW_FEATURES)):
            features[name.removeprefix(ROW_FEATURES).removeprefix(FEATURES)] = tensor
        elif name not in (VALID, FEATURE_LENGTH):
            stored[name] = tensor
    outputs = task.decode_outputs(stored, batch)
    if features:
        outputs = replace(outputs, features={**outputs.features, **features})
    return replace(outputs, valid=tensors[VALID].bool().squeeze(1)) if VALID in tensors else outputs


def _feature_lengths(name: str, features: Tensor, input_mask: Tensor) -> Tensor:
    """The valid positions ``[batch]`` of features ``[batch, positions, width]``."""
    mask = mask_frames(input_mask.to(features.device), features.shape[1])
    lengths = None if mask is None else mask.sum(dim=1)
    positions = torch.arange(features.shape[1], device=features.device)
    if mask is None or lengths is None or not torch.equal(mask, positions < lengths[:, None]):
        raise LimbeckError(
            f"the positions of {name!r} in a cache must be those of the input, or every k-th of them, with padding "
            "at the end: use another layer, or remove the cache"
        )
    return lengths
