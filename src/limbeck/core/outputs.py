"""What one network said about one batch.

Decision 001 tells how detection, token sequences, CTC frames and several teachers pass through this type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, nearest

__all__ = ["Outputs"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """One network's answer to one batch.

    Attributes:
        logits: ``[rows, classes]``, the row mask already applied. A row is whatever the task classifies: an image, a
            pixel, an anchor, a CTC frame, a token.
        maps: spatial logits ``[batch, classes, height, width]``, for terms that compare places.
        embedding: ``[batch, width]``.
        taps: hidden features by the names the user gave them, ``[batch, ...]`` of any rank.
        extra: further tensors a task wants to pass on, by name: box offsets by row, a network's own losses.
        sample: ``[rows]``, the sample in the batch that each row belongs to; ``None`` says row i is sample i.
        present: ``[batch]`` booleans, false where this network has no answer for the sample (a teacher of another
            language or modality); ``None`` says it answered every one.
    """

    logits: Tensor | None = None
    maps: Tensor | None = None
    embedding: Tensor | None = None
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    sample: Tensor | None = None
    present: Tensor | None = None

    def __post_init__(self) -> None:
        if self.logits is not None and self.logits.ndim != 2:
            raise LimbeckError(
                f"logits are [rows, classes], and these have the shape {list(self.logits.shape)}: "
                "the task flattens pixels, anchors or tokens into rows"
            )

    def rows(self) -> Tensor:
        """The logits, ``[rows, classes]``, or an error where this task has none."""
        if self.logits is None:
            raise LimbeckError("this network gave no logits, and the term needs them: choose a term on features")
        return self.logits

    def tap(self, name: str) -> Tensor:
        """The hidden features named ``name``, or an error that tells the names there are."""
        try:
            return self.taps[name]
        except KeyError:
            raise LimbeckError(
                f"no tap is named {name!r}; there are: {nearest(name, self.taps)}. "
                'Name taps when you build the distiller: taps={"student": {"mid": "layer2"}}; '
                'where there are several teachers, the term names one as well: teacher="big"'
            ) from None

    def detach(self) -> Outputs:
        """The same, cut off from the graph; itself where nothing hangs on one."""
        for tensor in (self.logits, self.maps, self.embedding, *self.taps.values(), *self.extra.values()):
            if tensor is not None and tensor.requires_grad:
                return self._each(lambda each: each.detach())
        return self

    def to(self, device: torch.device) -> Outputs:
        """The same on ``device``."""
        return self._each(lambda tensor: tensor.to(device))

    def select(self, keep: Tensor) -> Outputs:
        """Only the samples where ``keep`` (``[batch]`` booleans) is true, with the rows that belong to them.

        >>> said = Outputs(logits=torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> said.select(torch.tensor([False, True])).rows()
        tensor([[3., 4.]])
        """
        by_row = keep if self.sample is None else keep[self.sample]
        renumber = None if self.sample is None else (keep.cumsum(0) - 1)[self.sample[by_row]]
        rows = None if self.logits is None else len(self.logits)
        return replace(
            self,
            logits=None if self.logits is None else self.logits[by_row],
            maps=None if self.maps is None else self.maps[keep],
            embedding=None if self.embedding is None else self.embedding[keep],
            taps={name: tensor[keep] for name, tensor in self.taps.items()},
            extra={name: t[by_row] if t.ndim and len(t) == rows else t for name, t in self.extra.items()},
            sample=renumber,
            present=None if self.present is None else self.present[keep],
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> Outputs:
        changed: dict[str, Tensor | Mapping[str, Tensor] | None] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, torch.Tensor):
                changed[item.name] = change(value)
            elif isinstance(value, Mapping):
                changed[item.name] = {name: change(tensor) for name, tensor in value.items()}
            else:
                changed[item.name] = value
        return Outputs(**changed)  # type: ignore[arg-type]
