"""A teacher that has no answer for some samples: it is left out there, and the others speak for themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task, TeacherSource

__all__ = ["Partial", "answered_samples"]


def answered_samples(path: str | Path) -> Tensor:
    """The mask in a ``.npy`` file: ``[samples]`` booleans by number of sample, true where a teacher has an answer."""
    import numpy as np

    try:
        mask = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise LimbeckError(
            f"{path} is no mask that can be read ({type(error).__name__}): save one by numpy.save(path, booleans)"
        ) from error
    if mask.dtype != np.bool_ or mask.ndim != 1:
        raise LimbeckError(f"{path} holds {mask.dtype} {list(mask.shape)}, and a mask is booleans, one for each sample")
    return torch.from_numpy(mask)


@final
class Partial:
    """A :class:`~limbeck.core.protocols.TeacherSource` that is ``present`` for a part of the samples only.

    Arguments:
        source: whose answers they are; what it says of its own absence stays.
        samples: ``[samples]`` booleans by number of sample (``batch["index"]``), true where it has an answer.
        unknown: classes that it does not know: it has no answer for a sample whose label is one of them. Where a
            label is missing, or mixed of known ones, it answers.

    A sample for which it is absent reaches none of the terms that listen to it alone, and the combination leaves it to
    the others; one for which all are absent reaches no term on a teacher, and still those on the truth.

    >>> from limbeck.tasks import Classification
    >>> from limbeck.teachers import Frozen
    >>> teacher = Partial(Frozen(torch.nn.Linear(3, 2)), samples=torch.tensor([True, False]))
    >>> teacher.answer({"input": torch.ones(2, 3), "index": torch.tensor([1, 0])}, Classification(2)).present
    tensor([False,  True])
    """

    def __init__(
        self, source: TeacherSource, *, samples: Tensor | None = None, unknown: Sequence[int] = ()
    ) -> None:  # fmt: skip
        self._source, self._samples, self._unknown = source, samples, tuple(unknown)

    @property
    def network(self) -> Any:
        """The teacher's network, or ``None`` where it is none."""
        return getattr(self._source, "network", None)

    def answer(self, batch: Any, task: Task) -> Outputs:
        """What the teacher says about ``batch``, with the samples it has no answer for."""
        said = self._source.answer(batch, task)
        masks = [mask for mask in (said.present, self._listed(batch), self._known(batch, task)) if mask is not None]
        return replace(said, present=torch.stack(masks).all(dim=0)) if masks else said

    def tapped(self, places: Mapping[str, str]) -> Partial:
        """The same with hidden features read at ``places``."""
        source: Any = self._source
        if not hasattr(source, "tapped"):
            raise LimbeckError(f"{source!r} is no network, so it cannot be tapped")
        return Partial(source.tapped(places), samples=self._samples, unknown=self._unknown)

    def move(self, change: Callable[[Tensor], Tensor]) -> None:
        """Take the teacher along to another device or precision."""
        if (move := getattr(self._source, "move", None)) is not None:
            move(change)

    def finish(self) -> None:
        """A training has ended."""
        if (finish := getattr(self._source, "finish", None)) is not None:
            finish()

    def _listed(self, batch: Any) -> Tensor | None:
        if self._samples is None:
            return None
        index = batch.get("index") if isinstance(batch, Mapping) else None
        if not isinstance(index, Tensor):
            raise LimbeckError(
                "a teacher's mask goes by the number of each sample, and the batch carries none under 'index': use "
                "limbeck.data's"
            )
        if len(index) and int(index.max()) >= len(self._samples):
            raise LimbeckError(
                f"the batch has the sample {int(index.max())}, and the teacher's mask {len(self._samples)} samples, "
                "counted from 0: give one for the whole training part"
            )
        return self._samples.to(index.device)[index]

    def _known(self, batch: Any, task: Task) -> Tensor | None:
        if not self._unknown or (target := task.target(batch)) is None:
            return None
        if target.ndim == 2:
            return ~(target[:, list(self._unknown)] > 0).any(dim=1)
        return ~torch.isin(target, torch.tensor(self._unknown, device=target.device))

    def __repr__(self) -> str:
        return f"Partial({self._source!r})"
