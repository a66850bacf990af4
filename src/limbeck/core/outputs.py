"""The outputs of one network for one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, final

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
        by_row: further tensors with one entry for each row, ``[rows, ...]``: box offsets.
        by_sample: further tensors with one entry for each sample, ``[batch, ...]``: brightness, whole frames.
        extra: further tensors that belong to the batch or the network: losses, the weight of a head. They are never
            cut or cached, and gathered only where they are scalars.
        row_to_sample: ``[rows]``, the index in the batch of the sample of each row; ``None``: row i is sample i.
        valid: ``[batch]`` booleans, false where the network has no output for a sample (a teacher of another language
            or modality); ``None``: all are valid.
    """

    logits: Tensor | None = None
    spatial_logits: Tensor | None = None
    embedding: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    by_row: Mapping[str, Tensor] = field(default_factory=dict)
    by_sample: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    row_to_sample: Tensor | None = None
    valid: Tensor | None = None

    def __repr__(self) -> str:
        return format_fields(self)

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
        """The features of the layer ``name``."""
        if name not in self.features:
            raise LimbeckError(
                f"no feature is named {name!r}; available: {suggest_names(name, self.features)}. "
                'Name layers in the distiller: feature_layers={"student": {"mid": "layer2"}}; '
                'with several teachers, set `teacher` of the loss as well: teacher="big"'
            )
        return self.features[name]

    def tensors(self) -> list[Tensor]:
        """Logits, spatial logits, embedding and features: those that are not ``None``."""
        candidates = (self.logits, self.spatial_logits, self.embedding, *self.features.values())
        return [tensor for tensor in candidates if tensor is not None]

    def detach(self) -> Outputs:
        """The same without gradients; itself where no tensor requires one."""
        more = (*self.by_row.values(), *self.by_sample.values(), *self.extra.values())
        if any(tensor.requires_grad for tensor in (*self.tensors(), *more)):
            return self.map(lambda tensor: tensor.detach())
        return self

    def to(self, device: torch.device) -> Outputs:
        """The same tensors on ``device``."""
        return self.map(lambda tensor: tensor.to(device))

    def map(self, fn: Callable[[Tensor], Tensor]) -> Outputs:
        """``fn`` of every tensor."""

        def apply(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: fn(tensor) for name, tensor in value.items()}
            return None if value is None else fn(value)

        return Outputs(**{item.name: apply(getattr(self, item.name)) for item in fields(self)})

    def masked_select(self, mask: Tensor) -> Outputs:
        """The samples where ``mask`` (``[batch]`` booleans) is true, with their rows.

        >>> outputs = Outputs(logits=torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> outputs.masked_select(torch.tensor([False, True])).require_logits()
        tensor([[3., 4.]])
        """
        row_mask = mask if self.row_to_sample is None else mask[self.row_to_sample]
        by_sample = replace(self, logits=None, by_row={}, extra={}, row_to_sample=None)
        return replace(
            by_sample.map(lambda tensor: tensor[mask]),
            logits=None if self.logits is None else self.logits[row_mask],
            by_row={name: tensor[row_mask] for name, tensor in self.by_row.items()},
            extra=self.extra,
            row_to_sample=None if self.row_to_sample is None else (mask.cumsum(0) - 1)[self.row_to_sample[row_mask]],
        )


def format_fields(value: Any) -> str:
    """A dataclass as text: its fields that are set, with the shapes of tensors in place of their values.

    >>> format_fields(Outputs(logits=torch.zeros(8, 3)))
    'Outputs(logits=[8, 3])'
    """
    texts = ((item.name, getattr(value, item.name)) for item in fields(value))
    return f"{type(value).__name__}({', '.join(f'{name}={_format_shapes(x)}' for name, x in texts if _is_set(x))})"


def _is_set(value: Any) -> bool:
    return value is not None and not (isinstance(value, Mapping) and not value)


def _format_shapes(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(list(value.shape))
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_format_shapes(item)}' for name, item in value.items())}}}"
    return repr(value)
