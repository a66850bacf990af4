"""What teachers share that remember what was said of each sample: its number, and how many classes there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task

__all__ = ["get_sample_ids", "get_sample_logits", "last_occurrences", "resolve_num_classes"]


def get_sample_ids(batch: Any, *, caller: str) -> Tensor:
    """The number of each sample of ``batch``, ``[batch]``."""
    sample_ids = batch.get("sample_id") if isinstance(batch, Mapping) else None
    if not isinstance(sample_ids, Tensor) or sample_ids.ndim != 1:
        raise LimbeckError(
            f"{caller} knows samples by their number, and this batch has no `sample_id` [batch]: use limbeck's own data, or "
            "give batches as mappings with it"
        )
    return sample_ids


def resolve_num_classes(task: Task, classes: int | None, *, caller: str) -> int:
    """How many classes there are: as given, or as the task says."""
    num_classes = getattr(task, "classes", None) if classes is None else classes
    if not isinstance(num_classes, int):
        raise LimbeckError(f"{caller} has to know how many classes there are, and the task does not say: give classes=")
    return num_classes


def get_sample_logits(student: Outputs, sample_ids: Tensor, *, caller: str) -> Tensor:
    """The student's logits, one row for each sample, without gradients."""
    logits = student.require_logits().detach()
    if student.row_to_sample is not None or len(logits) != len(sample_ids):
        raise LimbeckError(
            f"{caller} remembers one row for each sample, and this task gave {len(logits)} rows for {len(sample_ids)} samples"
        )
    return logits


def last_occurrences(sample_ids: Tensor) -> Tensor:
    """Where each number of ``sample_ids`` stands last: of a sample shown twice in a batch, the later answer is kept.

    >>> last_occurrences(torch.tensor([7, 3, 7]))
    tensor([1, 2])
    """
    unique_ids, inverse = torch.unique(sample_ids, return_inverse=True)
    positions = torch.arange(len(sample_ids), device=sample_ids.device)
    return torch.zeros(len(unique_ids), dtype=torch.long, device=sample_ids.device).scatter_reduce(
        0, inverse, positions, "amax"
    )
