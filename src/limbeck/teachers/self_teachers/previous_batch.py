"""What the student said in the batch before, as its teacher (DLB: Shen et al., CVPR 2022).

https://arxiv.org/abs/2203.16172. Half of each batch comes again in the next one (``Training(sampling="again")``), and
what was said of it a step ago is what is said of it now to agree with: at temperature 3 and weight 1 in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.teachers.self_teachers._samples import answered, classes_of, last_of_each, numbers

__all__ = ["LastBatch"]


@final
class LastBatch:
    """A teacher that repeats what the student said in the batch before.

    Arguments:
        classes: how many there are; ``None``: what the task says.

    ``present`` is false for samples that were not in it. Batches carry ``index``, as limbeck's do; with several
    processes, each repeats what it said itself, since the half that comes again stays with it.

    >>> import limbeck
    >>> last, task = LastBatch(), limbeck.tasks.Classification(classes=2)
    >>> last.hear({"index": torch.tensor([5, 9])}, Outputs(logits=torch.tensor([[1.0, 0.0], [0.0, 3.0]])))
    >>> said = last.answer({"index": torch.tensor([9, 4])}, task)
    >>> said.rows(), said.present
    (tensor([[0., 3.],
            [0., 0.]]), tensor([ True, False]))
    """

    def __init__(self, *, classes: int | None = None) -> None:
        self.classes = classes
        self._index: Tensor | None = None
        self._logits = torch.zeros(0, 0)

    def bound(self, student: nn.Module) -> Self:
        """An empty one with the same settings."""
        return type(self)(classes=self.classes)

    def answer(self, batch: Any, task: Task) -> Outputs:
        """What was said of each sample in the batch before; zeros where it was not there."""
        index = numbers(batch, who="LastBatch")
        if self._index is None:
            rows = torch.zeros(len(index), classes_of(task, self.classes, who="LastBatch"), device=index.device)
            return Outputs(logits=rows, present=torch.zeros_like(index, dtype=torch.bool))
        place = torch.searchsorted(self._index.to(index.device), index).clamp(max=len(self._index) - 1)
        present = self._index.to(index.device)[place] == index
        rows = self._logits.to(index.device)[place].masked_fill(~present.unsqueeze(1), 0.0)
        return Outputs(logits=rows, present=present)

    def hear(self, batch: Any, student: Outputs) -> None:
        """Keep what the student says of ``batch``, in the place of the one before."""
        index = numbers(batch, who="LastBatch")
        rows = answered(student, index, who="LastBatch").float()
        if len(index):
            last = last_of_each(index)  # which are in the order of the numbers
            self._index, self._logits = index[last], rows[last].clone()

    def state_dict(self) -> dict[str, Tensor]:
        """The batch before."""
        return {} if self._index is None else {"number": self._index, "logits": self._logits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self._index = state.get("number")
        self._logits = state.get("logits", torch.zeros(0, 0))

    def __repr__(self) -> str:
        return "LastBatch()"
