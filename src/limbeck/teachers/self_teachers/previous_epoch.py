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
from limbeck.teachers.self_teachers._samples import answered, classes_of, last_of_each, numbers
from limbeck.utils.all_gather import gather

__all__ = ["LastPrediction"]


@final
class LastPrediction:
    """A teacher that repeats what the student said of each sample the last time it was shown.

    Arguments:
        classes: how many there are; ``None``: what the task says.
        precision: how logits are kept, in memory and in the checkpoint: samples × classes × 2 or 4 bytes.

    Batches carry ``index``, as limbeck's do. ``present`` is false for samples that were not shown yet. With several
    processes each hears what all of them said. Where views mix pictures, what was said of a mixture is kept under the
    number of its first picture: leave mixing views away.

    >>> import limbeck
    >>> memory, task = LastPrediction(), limbeck.tasks.Classification(classes=2)
    >>> batch = {"input": torch.zeros(2, 1), "index": torch.tensor([5, 9])}
    >>> memory.hear(batch, Outputs(logits=torch.tensor([[1.0, 0.0], [0.0, 3.0]])))
    >>> said = memory.answer({"index": torch.tensor([9, 4])}, task)
    >>> said.rows(), said.present
    (tensor([[0., 3.],
            [0., 0.]]), tensor([ True, False]))
    """

    def __init__(self, *, classes: int | None = None, precision: Literal["float16", "float32"] = "float32") -> None:
        if precision not in _PRECISIONS:
            raise LimbeckError(f"precision is {' or '.join(_PRECISIONS)}, not {precision!r}")
        self.classes, self.precision = classes, precision
        self._logits = torch.zeros(0, 0, dtype=_PRECISIONS[precision])
        self._known = torch.zeros(0, dtype=torch.bool)

    def bound(self, student: nn.Module) -> Self:
        """An empty one with the same settings."""
        return type(self)(classes=self.classes, precision=self.precision)

    def answer(self, batch: Any, task: Task) -> Outputs:
        """What the student said last of each sample, as float32 on the device of ``batch``; zeros where it did not."""
        index = numbers(batch, who="LastPrediction")
        if not len(self._known):
            rows = torch.zeros(len(index), classes_of(task, self.classes, who="LastPrediction"), device=index.device)
            return Outputs(logits=rows, present=torch.zeros_like(index, dtype=torch.bool))
        here = index.cpu()
        inside = here.clamp(max=len(self._known) - 1)
        present = self._known[inside] & (here == inside)
        rows = self._logits[inside].float().masked_fill_(~present.unsqueeze(1), 0.0)
        return Outputs(logits=rows.to(index.device), present=present.to(index.device))

    def hear(self, batch: Any, student: Outputs) -> None:
        """Keep what the student says of ``batch``."""
        index = numbers(batch, who="LastPrediction")
        rows = answered(student, index, who="LastPrediction")
        self._keep(gather(index).cpu(), gather(rows).to("cpu", self._logits.dtype))

    def state_dict(self) -> dict[str, Tensor]:
        """The samples that are known, and what was said of them."""
        number = self._known.nonzero().squeeze(1)
        return {"number": number, "logits": self._logits[number]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back, in the place of all that was known."""
        self._known = torch.zeros(0, dtype=torch.bool)
        self._logits = torch.zeros(0, 0, dtype=self._logits.dtype)
        if len(state["number"]):
            self._keep(state["number"], state["logits"].to(self._logits.dtype))

    def _keep(self, index: Tensor, rows: Tensor) -> None:
        if not len(index):
            return
        known, most = len(self._known), int(index.max()) + 1
        if most > known:
            # Numbers come in any order: twice as many as before, so that it is copied a few times only.
            size = max(most, 2 * known)
            logits = torch.zeros(size, rows.shape[1], dtype=self._logits.dtype)
            if known:
                logits[:known] = self._logits
            self._logits, self._known = logits, torch.cat([self._known, torch.zeros(size - known, dtype=torch.bool)])
        last = last_of_each(index)
        self._logits[index[last]], self._known[index[last]] = rows[last], True

    def __repr__(self) -> str:
        return f"LastPrediction(precision={self.precision!r})"


_PRECISIONS = {"float16": torch.float16, "float32": torch.float32}
