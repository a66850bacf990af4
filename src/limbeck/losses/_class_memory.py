"""A bounded memory of embeddings of each class, as buffers."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from limbeck.utils.all_gather import all_gather, gather_sizes


@final
class ClassMemory(nn.Module):
    """The last ``size`` embeddings of each class. Stored values are ``[classes, size, width]``, all in the state dict.

    Args:
        classes: number of classes.
        size: embeddings of a class; a new one replaces the oldest.
        reference: ``[rows, width]`` embeddings, for width, precision and device.

    >>> memory = ClassMemory(classes=2, size=2, reference=torch.zeros(0, 1))
    >>> memory.add(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1, 1, 1]))
    >>> memory.num_stored.tolist(), memory.embeddings[1, :, 0].tolist()
    ([0, 2], [3.0, 2.0])
    """

    embeddings: Tensor
    num_written: Tensor

    def __init__(self, *, classes: int, size: int, reference: Tensor) -> None:
        super().__init__()
        self.register_buffer("embeddings", reference.new_zeros(classes, size, reference.shape[1]))
        self.register_buffer("num_written", torch.zeros(classes, dtype=torch.long, device=reference.device))

    @property
    def num_stored(self) -> Tensor:
        """Embeddings in the memory of each class, ``[classes]``."""
        return self.num_written.clamp(max=self.embeddings.shape[1])

    @torch.no_grad()
    def add(self, rows: Tensor, classes: Tensor) -> None:
        """Store ``rows`` ``[rows, width]`` of ``classes`` ``[rows]``, those of all processes."""
        sizes = [size for (size,) in gather_sizes([len(rows)], device=rows.device)]
        if not any(sizes):
            return
        rows, classes = all_gather(rows, sizes=sizes), all_gather(classes, sizes=sizes)
        num_classes, size = self.embeddings.shape[:2]
        ranks, counts = rank_in_group(classes), torch.bincount(classes, minlength=num_classes)
        slots = (self.num_written[classes] + ranks) % size
        is_last = ranks >= counts[classes] - size  # an earlier one is replaced by a later one of the same batch
        self.embeddings[classes[is_last], slots[is_last]] = rows[is_last].to(self.embeddings)
        self.num_written += counts

    def sample(self, num_by_class: int) -> Tensor:
        """Up to ``num_by_class`` random embeddings of each class that has any, ``[embeddings, width]``."""
        classes, size, width = self.embeddings.shape
        scores = torch.rand(classes, size, device=self.embeddings.device)
        is_empty = torch.arange(size, device=scores.device) >= self.num_stored[:, None]
        scores, slots = scores.masked_fill(is_empty, -1.0).topk(min(num_by_class, size), dim=1)
        return self.embeddings.gather(1, slots[:, :, None].expand(-1, -1, width))[scores >= 0]

    def extra_repr(self) -> str:
        return "classes={}, size={}, width={}".format(*self.embeddings.shape)


def rank_in_group(groups: Tensor) -> Tensor:
    """How many earlier entries have the same number, ``[rows]``.

    >>> rank_in_group(torch.tensor([5, 3, 5, 5, 3])).tolist()
    [0, 0, 1, 2, 1]
    """
    ordered, order = groups.sort(stable=True)
    ranks = torch.empty_like(groups)
    ranks[order] = torch.arange(len(groups), device=groups.device) - torch.searchsorted(ordered, ordered)
    return ranks


def sample_in_groups(groups: Tensor, num: int) -> Tensor:
    """Booleans ``[rows]``, true for up to ``num`` random entries of each group."""
    order = torch.randperm(len(groups), device=groups.device)
    is_sampled = torch.empty_like(groups, dtype=torch.bool)
    is_sampled[order] = rank_in_group(groups[order]) < num
    return is_sampled
