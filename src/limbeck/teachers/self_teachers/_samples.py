"""What teachers share that remember what was said of each sample: its number, and how many classes there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task

__all__ = ["answered", "classes_of", "last_of_each", "numbers"]


def numbers(batch: Any, *, who: str) -> Tensor:
    """The number of each sample of ``batch``, ``[batch]``."""
    index = batch.get("index") if isinstance(batch, Mapping) else None
    if not isinstance(index, Tensor) or index.ndim != 1:
        raise LimbeckError(
            f"{who} knows samples by their number, and this batch has no `index` [batch]: use limbeck's own data, or "
            "give batches as mappings with it"
        )
    return index


def classes_of(task: Task, given: int | None, *, who: str) -> int:
    """How many classes there are: as given, or as the task says."""
    found = getattr(task, "classes", None) if given is None else given
    if not isinstance(found, int):
        raise LimbeckError(f"{who} has to know how many classes there are, and the task does not say: give classes=")
    return found


def answered(student: Outputs, index: Tensor, *, who: str) -> Tensor:
    """The student's logits, one row for each sample, without gradients."""
    rows = student.rows().detach()
    if student.sample is not None or len(rows) != len(index):
        raise LimbeckError(
            f"{who} remembers one row for each sample, and this task gave {len(rows)} rows for {len(index)} samples"
        )
    return rows


def last_of_each(index: Tensor) -> Tensor:
    """Where each number of ``index`` stands last: of a sample shown twice in a batch, the later answer is kept.

    >>> last_of_each(torch.tensor([7, 3, 7]))
    tensor([1, 2])
    """
    once, again = torch.unique(index, return_inverse=True)
    places = torch.arange(len(index), device=index.device)
    return torch.zeros(len(once), dtype=torch.long, device=index.device).scatter_reduce(0, again, places, "amax")
