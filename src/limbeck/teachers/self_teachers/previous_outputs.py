"""Teachers that return previous logits of the student by sample: of the last epoch (PS-KD) or the last batch (DLB).

PS-KD: Kim et al., *Self-Knowledge Distillation with Progressive Refinement of Targets* (ICCV 2021,
https://arxiv.org/abs/2006.12000). As in the paper's code, the logits are those of the training pass of the previous
epoch, which costs no second pass. DLB: Shen et al., *Self-Distillation from the Last Mini-Batch for Consistency
Regularization* (CVPR 2022, https://arxiv.org/abs/2203.16172), with ``TrainingConfig(batch_pairing="repeat_previous")``,
temperature 3 and weight 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task, Teacher
from limbeck.utils.all_gather import all_gather

__all__ = ["PreviousBatchTeacher", "PreviousEpochTeacher"]

_DTYPES = {"float16": torch.float16, "float32": torch.float32}


@final
class PreviousEpochTeacher(Teacher):
    """Returns the logits that the student had for each sample when it was last trained on it (PS-KD).

    Args:
        classes: number of classes; ``None``: that of the task.
        dtype: dtype of the stored logits: samples × classes × 2 or 4 bytes in memory and in checkpoints.

    Batches need ``sample_id``. ``valid`` is false for samples that were not shown yet. Logits are gathered from all
    processes. The logits of a mixed image are stored for its first image: use no mixing augmentation.

    >>> import limbeck
    >>> teacher, task = PreviousEpochTeacher(), limbeck.tasks.Classification(classes=2)
    >>> batch = {"input": torch.zeros(2, 1), "sample_id": torch.tensor([5, 9])}
    >>> teacher.on_step_end(batch, Outputs(logits=torch.tensor([[1.0, 0.0], [0.0, 3.0]])))
    >>> outputs = teacher.predict({"sample_id": torch.tensor([9, 4])}, task)
    >>> outputs.require_logits(), outputs.valid
    (tensor([[0., 3.],
            [0., 0.]]), tensor([ True, False]))
    """

    def __init__(self, *, classes: int | None = None, dtype: Literal["float16", "float32"] = "float32") -> None:
        if dtype not in _DTYPES:
            raise LimbeckError(f"dtype must be {' or '.join(_DTYPES)}, got {dtype!r}")
        self.classes, self.dtype = classes, dtype
        self._logits = torch.zeros(0, 0, dtype=_DTYPES[dtype])
        self._is_stored = torch.zeros(0, dtype=torch.bool)

    def bind_student(self, student: nn.Module) -> Self:
        """An empty one with the same settings."""
        return type(self)(classes=self.classes, dtype=self.dtype)

    def predict(self, batch: Any, task: Task) -> Outputs:
        """The last logits of each sample, as float32 on the device of ``batch``; zeros where there are none."""
        sample_ids = _get_sample_ids(batch)
        if not len(self._is_stored):
            return _empty_outputs(sample_ids, task, self.classes)
        cpu_ids = sample_ids.cpu()
        clamped_ids = cpu_ids.clamp(max=len(self._is_stored) - 1)
        valid = self._is_stored[clamped_ids] & (cpu_ids == clamped_ids)
        logits = self._logits[clamped_ids].float().masked_fill_(~valid.unsqueeze(1), 0.0)
        return Outputs(logits=logits.to(sample_ids.device), valid=valid.to(sample_ids.device))

    def on_step_end(self, batch: Any, student: Outputs) -> None:
        """Store the student's logits for ``batch``."""
        sample_ids = _get_sample_ids(batch)
        logits = _get_sample_logits(student, sample_ids)
        self._store(all_gather(sample_ids).cpu(), all_gather(logits).to("cpu", self._logits.dtype))

    def state_dict(self) -> dict[str, Any]:
        """The stored logits and their sample ids."""
        sample_ids = self._is_stored.nonzero().squeeze(1)
        return {"sample_ids": sample_ids, "logits": self._logits[sample_ids]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace all stored logits."""
        self._is_stored = torch.zeros(0, dtype=torch.bool)
        self._logits = torch.zeros(0, 0, dtype=self._logits.dtype)
        self._store(state["sample_ids"], state["logits"].to(self._logits.dtype))

    def _store(self, sample_ids: Tensor, new_logits: Tensor) -> None:
        if not len(sample_ids):
            return
        capacity, num_samples = len(self._is_stored), int(sample_ids.max()) + 1
        if num_samples > capacity:
            size = max(num_samples, 2 * capacity)  # doubling, since sample ids come in any order
            logits = torch.zeros(size, new_logits.shape[1], dtype=self._logits.dtype)
            is_stored = torch.zeros(size, dtype=torch.bool)
            if capacity:
                logits[:capacity], is_stored[:capacity] = self._logits, self._is_stored
            self._logits, self._is_stored = logits, is_stored
        last = _last_occurrences(sample_ids)
        self._logits[sample_ids[last]], self._is_stored[sample_ids[last]] = new_logits[last], True

    def __repr__(self) -> str:
        return f"PreviousEpochTeacher(dtype={self.dtype!r})"


@final
class PreviousBatchTeacher(Teacher):
    """Returns the logits that the student had in the previous batch (DLB).

    Args:
        classes: number of classes; ``None``: that of the task.

    Batches need ``sample_id``. ``valid`` is false for samples that were not in the previous batch. Each process
    stores its own logits, since the repeated half of a batch stays in its process.

    >>> import limbeck
    >>> teacher, task = PreviousBatchTeacher(), limbeck.tasks.Classification(classes=2)
    >>> teacher.on_step_end({"sample_id": torch.tensor([5, 9])}, Outputs(logits=torch.tensor([[1.0, 0.0], [0.0, 3.0]])))
    >>> outputs = teacher.predict({"sample_id": torch.tensor([9, 4])}, task)
    >>> outputs.require_logits(), outputs.valid
    (tensor([[0., 3.],
            [0., 0.]]), tensor([ True, False]))
    """

    def __init__(self, *, classes: int | None = None) -> None:
        self.classes = classes
        self._sample_ids: Tensor | None = None
        self._logits = torch.zeros(0, 0)

    def bind_student(self, student: nn.Module) -> Self:
        """An empty one with the same settings."""
        return type(self)(classes=self.classes)

    def predict(self, batch: Any, task: Task) -> Outputs:
        """The logits of each sample in the previous batch; zeros where it was not in it."""
        sample_ids = _get_sample_ids(batch)
        if self._sample_ids is None:
            return _empty_outputs(sample_ids, task, self.classes)
        stored_ids = self._sample_ids.to(sample_ids.device)
        position = torch.searchsorted(stored_ids, sample_ids).clamp(max=len(stored_ids) - 1)
        valid = stored_ids[position] == sample_ids
        logits = self._logits.to(sample_ids.device)[position].masked_fill(~valid.unsqueeze(1), 0.0)
        return Outputs(logits=logits, valid=valid)

    def on_step_end(self, batch: Any, student: Outputs) -> None:
        """Store the student's logits for ``batch`` in place of those of the previous batch."""
        sample_ids = _get_sample_ids(batch)
        logits = _get_sample_logits(student, sample_ids).float()
        if len(sample_ids):
            last = _last_occurrences(sample_ids)  # sorted by sample id
            self._sample_ids, self._logits = sample_ids[last], logits[last].clone()

    def state_dict(self) -> dict[str, Any]:
        """The stored logits and their sample ids."""
        return {} if self._sample_ids is None else {"sample_ids": self._sample_ids, "logits": self._logits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the stored logits."""
        self._sample_ids = state.get("sample_ids")
        self._logits = state.get("logits", torch.zeros(0, 0))

    def __repr__(self) -> str:
        return "PreviousBatchTeacher()"


def _get_sample_ids(batch: Any) -> Tensor:
    sample_ids = batch.get("sample_id") if isinstance(batch, Mapping) else None
    if not isinstance(sample_ids, Tensor) or sample_ids.ndim != 1:
        raise LimbeckError(
            "a teacher of previous outputs needs batches with `sample_id` [batch], and this one has none: use "
            "limbeck.data, or mappings with that key"
        )
    return sample_ids


def _get_sample_logits(student: Outputs, sample_ids: Tensor) -> Tensor:
    logits = student.require_logits().detach()
    if student.row_to_sample is not None or len(logits) != len(sample_ids):
        raise LimbeckError(
            "a teacher of previous outputs needs one row of logits for each sample, got "
            f"{len(logits)} rows for {len(sample_ids)} samples"
        )
    return logits


def _empty_outputs(sample_ids: Tensor, task: Task, classes: int | None) -> Outputs:
    num_classes = getattr(task, "classes", None) if classes is None else classes
    if not isinstance(num_classes, int):
        raise LimbeckError("the task has no number of classes: set classes= of the teacher")
    logits = torch.zeros(len(sample_ids), num_classes, device=sample_ids.device)
    return Outputs(logits=logits, valid=torch.zeros_like(sample_ids, dtype=torch.bool))


def _last_occurrences(sample_ids: Tensor) -> Tensor:
    """The last position of each sample id, in the order of the ids.

    >>> _last_occurrences(torch.tensor([7, 3, 7]))
    tensor([1, 2])
    """
    unique_ids, inverse = torch.unique(sample_ids, return_inverse=True)
    positions = torch.arange(len(sample_ids), device=sample_ids.device)
    return torch.zeros_like(unique_ids).scatter_reduce(0, inverse, positions, "amax")
