"""A teacher whose outputs are as a cache returns them, without a cache: for a trial run before training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Teacher
from limbeck.core.task import Task
from limbeck.losses._ops import hard_labels
from limbeck.teachers.cache.cache_config import CacheConfig
from limbeck.teachers.cache.codec import decode_outputs, encode_outputs, require_codec
from limbeck.teachers.cache.layout import RecordLayout

__all__ = ["RoundTripTeacher"]


@final
class RoundTripTeacher(Teacher):
    """Encodes and decodes the outputs of ``teacher`` as a cache with ``config`` does.

    Where only the largest logits are stored, the target is the largest logit of every other row and the smallest of the
    rest, so that a loss meets both cases.
    """

    def __init__(self, teacher: Teacher, config: CacheConfig) -> None:
        self._teacher, self._config = teacher, config

    @property
    def network(self) -> nn.Module | None:
        """The module of the wrapped teacher."""
        return self._teacher.network

    def predict(self, batch: Any, task: Task) -> Outputs:
        """Outputs of the wrapped teacher, with the precision of the cache."""
        codec, outputs = require_codec(task), self._teacher.predict(batch, task)
        if self._config.top_k is not None:
            outputs = _alternate_target_rank(outputs, task.target(batch))
        batch_size = len(batch["sample_id"])
        tensors = encode_outputs(outputs, batch, codec, batch_size=batch_size)
        layout = RecordLayout.from_tensors(tensors, self._config)
        device = next(iter(tensors.values())).device
        decoded = layout.unpack(layout.pack(tensors))
        return decode_outputs({name: tensor.to(device) for name, tensor in decoded.items()}, batch, codec)

    def with_features(self, feature_layers: Mapping[str, str]) -> RoundTripTeacher:
        """The same with the features at ``feature_layers``."""
        return RoundTripTeacher(self._teacher.with_features(feature_layers), self._config)

    def to(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the wrapped teacher."""
        self._teacher.to(fn)


def _alternate_target_rank(outputs: Outputs, target: Tensor | None) -> Outputs:
    """``outputs`` with the target's logit exchanged with the largest in even rows, and with the smallest in odd rows.

    >>> outputs = Outputs(logits=torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
    >>> _alternate_target_rank(outputs, torch.tensor([0, 2])).require_logits()
    tensor([[3., 2., 1.],
            [3., 2., 1.]])
    """
    if outputs.logits is None or target is None or len(target) != len(outputs.logits):
        return outputs
    logits, labels = outputs.logits, hard_labels(target)
    is_even = torch.arange(len(logits), device=logits.device) % 2 == 0
    rank = torch.where(is_even, logits.argmax(dim=1), logits.argmin(dim=1))
    rank = torch.where(labels >= 0, rank, 0)[:, None]
    label = torch.where(labels >= 0, labels, 0)[:, None]
    exchanged = logits.scatter(1, label, logits.gather(1, rank)).scatter(1, rank, logits.gather(1, label))
    return replace(outputs, logits=exchanged)
