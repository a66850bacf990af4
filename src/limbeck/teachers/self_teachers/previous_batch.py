"""What the student said in the batch before, as its teacher (DLB: Shen et al., CVPR 2022).

https://arxiv.org/abs/2203.16172. Half of each batch comes again in the next one (``TrainingConfig(batch_pairing="repeat_previous")``), and
what was said of it a step ago is what is said of it now to agree with: at temperature 3 and weight 1 in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.teachers.self_teachers._samples import (
    get_sample_ids,
    get_sample_logits,
    last_occurrences,
    resolve_num_classes,
)

__all__ = ["PreviousBatchTeacher"]


@final
class PreviousBatchTeacher:
    """A teacher that repeats what the student said in the batch before.

    Arguments:
        classes: how many there are; ``None``: what the task says.

    ``valid`` is false for samples that were not in it. Batches carry ``sample_id``, as limbeck's do; with several
    processes, each repeats what it said itself, since the half that comes again stays with it.

    >>> import limbeck
    >>> last, task = PreviousBatchTeacher(), limbeck.tasks.Classification(classes=2)
    >>> last.on_step_end({"sample_id": torch.tensor([5, 9])}, Outputs(logits=torch.tensor([[1.0, 0.0], [0.0, 3.0]])))
    >>> said = last.predict({"sample_id": torch.tensor([9, 4])}, task)
    >>> said.require_logits(), said.valid
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
        """What was said of each sample in the batch before; zeros where it was not there."""
        sample_ids = get_sample_ids(batch, caller="PreviousBatchTeacher")
        if self._sample_ids is None:
            logits = torch.zeros(
                len(sample_ids),
                resolve_num_classes(task, self.classes, caller="PreviousBatchTeacher"),
                device=sample_ids.device,
            )
            return Outputs(logits=logits, valid=torch.zeros_like(sample_ids, dtype=torch.bool))
        position = torch.searchsorted(self._sample_ids.to(sample_ids.device), sample_ids).clamp(
            max=len(self._sample_ids) - 1
        )
        valid = self._sample_ids.to(sample_ids.device)[position] == sample_ids
        logits = self._logits.to(sample_ids.device)[position].masked_fill(~valid.unsqueeze(1), 0.0)
        return Outputs(logits=logits, valid=valid)

    def on_step_end(self, batch: Any, student: Outputs) -> None:
        """Keep what the student says of ``batch``, in the place of the one before."""
        sample_ids = get_sample_ids(batch, caller="PreviousBatchTeacher")
        logits = get_sample_logits(student, sample_ids, caller="PreviousBatchTeacher").float()
        if len(sample_ids):
            last = last_occurrences(sample_ids)  # which are in the order of the numbers
            self._sample_ids, self._logits = sample_ids[last], logits[last].clone()

    def state_dict(self) -> dict[str, Tensor]:
        """The batch before."""
        return {} if self._sample_ids is None else {"sample_ids": self._sample_ids, "logits": self._logits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self._sample_ids = state.get("sample_ids")
        self._logits = state.get("logits", torch.zeros(0, 0))

    def __repr__(self) -> str:
        return "PreviousBatchTeacher()"
