"""What the student said of each sample the last time it saw it, as its teacher (PS-KD: Kim et al., ICCV 2021).

https://arxiv.org/abs/2006.12000. The paper's p_{t−1}(x) is what the network of the epoch before says; like its code,
this keeps what was said of the sample while that epoch trained, which costs no second pass. A sample that was not shown
yet has no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.teachers.self_teachers._samples import (
    get_sample_ids,
    get_sample_logits,
    last_occurrences,
    resolve_num_classes,
)
from limbeck.utils.all_gather import all_gather

__all__ = ["PreviousEpochTeacher"]


@final
class PreviousEpochTeacher:
    """A teacher that repeats what the student said of each sample the last time it was shown.

    Arguments:
        classes: how many there are; ``None``: what the task says.
        dtype: how logits are kept, in memory and in the checkpoint: samples × classes × 2 or 4 bytes.

    Batches carry ``sample_id``, as limbeck's do. ``valid`` is false for samples that were not shown yet. With several
    processes each hears what all of them said. Where views mix pictures, what was said of a mixture is kept under the
    number of its first picture: leave mixing views away.

    >>> import limbeck
    >>> memory, task = PreviousEpochTeacher(), limbeck.tasks.Classification(classes=2)
    >>> batch = {"input": torch.zeros(2, 1), "sample_id": torch.tensor([5, 9])}
    >>> memory.on_step_end(batch, Outputs(logits=torch.tensor([[1.0, 0.0], [0.0, 3.0]])))
    >>> said = memory.predict({"sample_id": torch.tensor([9, 4])}, task)
    >>> said.require_logits(), said.valid
    (tensor([[0., 3.],
            [0., 0.]]), tensor([ True, False]))
    """

    def __init__(self, *, classes: int | None = None, dtype: Literal["float16", "float32"] = "float32") -> None:
        if dtype not in _DTYPES:
            raise LimbeckError(f"dtype is {' or '.join(_DTYPES)}, not {dtype!r}")
        self.classes, self.dtype = classes, dtype
        self._logits = torch.zeros(0, 0, dtype=_DTYPES[dtype])
        self._is_stored = torch.zeros(0, dtype=torch.bool)

    def bind_student(self, student: nn.Module) -> Self:
        """An empty one with the same settings."""
        return type(self)(classes=self.classes, dtype=self.dtype)

    def predict(self, batch: Any, task: Task) -> Outputs:
        """What the student said last of each sample, as float32 on the device of ``batch``; zeros where it did not."""
        sample_ids = get_sample_ids(batch, caller="PreviousEpochTeacher")
        if not len(self._is_stored):
            logits = torch.zeros(
                len(sample_ids),
                resolve_num_classes(task, self.classes, caller="PreviousEpochTeacher"),
                device=sample_ids.device,
            )
            return Outputs(logits=logits, valid=torch.zeros_like(sample_ids, dtype=torch.bool))
        cpu_ids = sample_ids.cpu()
        clamped_ids = cpu_ids.clamp(max=len(self._is_stored) - 1)
        valid = self._is_stored[clamped_ids] & (cpu_ids == clamped_ids)
        logits = self._logits[clamped_ids].float().masked_fill_(~valid.unsqueeze(1), 0.0)
        return Outputs(logits=logits.to(sample_ids.device), valid=valid.to(sample_ids.device))

    def on_step_end(self, batch: Any, student: Outputs) -> None:
        """Keep what the student says of ``batch``."""
        sample_ids = get_sample_ids(batch, caller="PreviousEpochTeacher")
        logits = get_sample_logits(student, sample_ids, caller="PreviousEpochTeacher")
        self._store(all_gather(sample_ids).cpu(), all_gather(logits).to("cpu", self._logits.dtype))

    def state_dict(self) -> dict[str, Tensor]:
        """The samples that are known, and what was said of them."""
        sample_ids = self._is_stored.nonzero().squeeze(1)
        return {"sample_ids": sample_ids, "logits": self._logits[sample_ids]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back, in the place of all that was known."""
        self._is_stored = torch.zeros(0, dtype=torch.bool)
        self._logits = torch.zeros(0, 0, dtype=self._logits.dtype)
        if len(state["sample_ids"]):
            self._store(state["sample_ids"], state["logits"].to(self._logits.dtype))

    def _store(self, sample_ids: Tensor, new_logits: Tensor) -> None:
        if not len(sample_ids):
            return
        capacity, num_samples = len(self._is_stored), int(sample_ids.max()) + 1
        if num_samples > capacity:
            # Numbers come in any order: twice as many as before, so that it is copied a few times only.
            size = max(num_samples, 2 * capacity)
            logits = torch.zeros(size, new_logits.shape[1], dtype=self._logits.dtype)
            if capacity:
                logits[:capacity] = self._logits
            self._logits, self._is_stored = (
                logits,
                torch.cat([self._is_stored, torch.zeros(size - capacity, dtype=torch.bool)]),
            )
        last = last_occurrences(sample_ids)
        self._logits[sample_ids[last]], self._is_stored[sample_ids[last]] = new_logits[last], True

    def __repr__(self) -> str:
        return f"PreviousEpochTeacher(dtype={self.dtype!r})"


_DTYPES = {"float16": torch.float16, "float32": torch.float32}
