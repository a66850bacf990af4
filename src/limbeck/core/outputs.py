"""The outputs of one network for one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, suggest_names

__all__ = ["Outputs"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Outputs of one network for one batch.

    Attributes:
        logits: ``[rows, classes]`` with the mask applied. A row is what the task classifies: an image, a pixel, an
            anchor, a CTC frame, a token.
        spatial_logits: ``[batch, classes, height, width]``, for losses that compare positions.
        embedding: ``[batch, width]``.
        features: hidden features by layer name, ``[batch, ...]`` of any rank.
        extra: further tensors of a task, by name: box offsets by row, losses of the network.
        row_to_sample: ``[rows]``, the index in the batch of the sample of each row; ``None``: row i is sample i.
        valid: ``[batch]`` booleans, false where the network has no output for a sample (a teacher of another language
            or modality); ``None``: all are valid.
    """

    logits: Tensor | None = None
    spatial_logits: Tensor | None = None
    embedding: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    row_to_sample: Tensor | None = None
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        if self.logits is not None and self.logits.ndim != 2:
            raise LimbeckError(
                f"logits must be [rows, classes], got {list(self.logits.shape)}: let the task flatten pixels, anchors "
                "or tokens into rows"
            )

    def require_logits(self) -> Tensor:
        """The logits, ``[rows, classes]``; an error where there are none."""
        if self.logits is None:
            raise LimbeckError("this loss needs logits, and the network has none: use a loss on features")
        return self.logits

    def feature(self, name: str) -> Tensor:
        """The features of the layer ``name``; an error lists the names there are."""
        try:
            return self.features[name]
        except KeyError:
            raise LimbeckError(
                f"no feature is named {name!r}; there are: {suggest_names(name, self.features)}. "
                'Name layers in the distiller: feature_layers={"student": {"mid": "layer2"}}; '
                'with several teachers, set `teacher` of the loss as well: teacher="big"'
            ) from None

    def detach(self) -> Outputs:
        """The same without gradients; itself where no tensor requires one."""
        for tensor in (self.logits, self.spatial_logits, self.embedding, *self.features.values(), *self.extra.values()):
            if tensor is not None and tensor.requires_grad:
                return self._map_tensors(lambda t: t.detach())
        return self

    def to(self, device: torch.device) -> Outputs:
        """The same tensors on ``device``."""
        return self._map_tensors(lambda tensor: tensor.to(device))

    def masked_select(self, mask: Tensor) -> Outputs:
        """The samples where ``mask`` (``[batch]`` booleans) is true, with their rows.

        >>> outputs = Outputs(logits=torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> outputs.masked_select(torch.tensor([False, True])).require_logits()
        tensor([[3., 4.]])
        """
        row_mask = mask if self.row_to_sample is None else mask[self.row_to_sample]
        row_to_sample = None if self.row_to_sample is None else (mask.cumsum(0) - 1)[self.row_to_sample[row_mask]]
        num_rows = None if self.logits is None else len(self.logits)
        return replace(
            self,
            logits=None if self.logits is None else self.logits[row_mask],
            spatial_logits=None if self.spatial_logits is None else self.spatial_logits[mask],
            embedding=None if self.embedding is None else self.embedding[mask],
            features={name: tensor[mask] for name, tensor in self.features.items()},
            extra={name: t[row_mask] if t.ndim and len(t) == num_rows else t for name, t in self.extra.items()},
            row_to_sample=row_to_sample,
            valid=None if self.valid is None else self.valid[mask],
        )

    def _map_tensors(self, fn: Callable[[Tensor], Tensor]) -> Outputs:
        mapped: dict[str, Tensor | Mapping[str, Tensor] | None] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, torch.Tensor):
                mapped[item.name] = fn(value)
            elif isinstance(value, Mapping):
                mapped[item.name] = {name: fn(tensor) for name, tensor in value.items()}
            else:
                mapped[item.name] = value
        return Outputs(**mapped)  # type: ignore[arg-type]
