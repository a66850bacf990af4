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
from limbeck.core.protocols import Task, Teacher

__all__ = ["MaskedTeacher", "load_sample_mask"]


def load_sample_mask(path: str | Path) -> Tensor:
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
class MaskedTeacher:
    """A :class:`~limbeck.core.protocols.Teacher` that is ``valid`` for a part of the samples only.

    Arguments:
        teacher: whose answers they are; what it says of its own absence stays.
        sample_mask: ``[samples]`` booleans by number of sample (``batch["sample_id"]``), true where it has an answer.
        unknown_classes: classes that it does not know: it has no answer for a sample whose label is one of them. Where a
            label is missing, or mixed of known ones, it answers.

    A sample for which it is absent reaches none of the terms that listen to it alone, and the combination leaves it to
    the others; one for which all are absent reaches no term on a teacher, and still those on the truth.

    >>> from limbeck.tasks import Classification
    >>> from limbeck.teachers import FrozenTeacher
    >>> teacher = MaskedTeacher(FrozenTeacher(torch.nn.Linear(3, 2)), sample_mask=torch.tensor([True, False]))
    >>> teacher.predict({"input": torch.ones(2, 3), "sample_id": torch.tensor([1, 0])}, Classification(2)).valid
    tensor([False,  True])
    """

    def __init__(
        self, teacher: Teacher, *, sample_mask: Tensor | None = None, unknown_classes: Sequence[int] = ()
    ) -> None:  # fmt: skip
        self._teacher, self._sample_mask, self._unknown_classes = teacher, sample_mask, tuple(unknown_classes)

    @property
    def network(self) -> Any:
        """The teacher's network, or ``None`` where it is none."""
        return getattr(self._teacher, "network", None)

    def predict(self, batch: Any, task: Task) -> Outputs:
        """What the teacher says about ``batch``, with the samples it has no answer for."""
        outputs = self._teacher.predict(batch, task)
        masks = [
            mask
            for mask in (outputs.valid, self._valid_by_sample(batch), self._valid_by_class(batch, task))
            if mask is not None
        ]
        return replace(outputs, valid=torch.stack(masks).all(dim=0)) if masks else outputs

    def with_features(self, feature_layers: Mapping[str, str]) -> MaskedTeacher:
        """The same with hidden features read at ``feature_layers``."""
        teacher: Any = self._teacher
        if not hasattr(teacher, "with_features"):
            raise LimbeckError(f"{teacher!r} is no network, so it cannot be tapped")
        return MaskedTeacher(
            teacher.with_features(feature_layers), sample_mask=self._sample_mask, unknown_classes=self._unknown_classes
        )

    def to(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Take the teacher along to another device or precision."""
        if (to := getattr(self._teacher, "to", None)) is not None:
            to(fn)

    def close(self) -> None:
        """A training has ended."""
        if (close := getattr(self._teacher, "close", None)) is not None:
            close()

    def _valid_by_sample(self, batch: Any) -> Tensor | None:
        if self._sample_mask is None:
            return None
        sample_ids = batch.get("sample_id") if isinstance(batch, Mapping) else None
        if not isinstance(sample_ids, Tensor):
            raise LimbeckError(
                "a teacher's mask goes by the number of each sample, and the batch carries none under 'sample_id': use "
                "limbeck.data's"
            )
        if len(sample_ids) and int(sample_ids.max()) >= len(self._sample_mask):
            raise LimbeckError(
                f"the batch has the sample {int(sample_ids.max())}, and the teacher's mask {len(self._sample_mask)} samples, "
                "counted from 0: give one for the whole training part"
            )
        return self._sample_mask.to(sample_ids.device)[sample_ids]

    def _valid_by_class(self, batch: Any, task: Task) -> Tensor | None:
        if not self._unknown_classes or (target := task.target(batch)) is None:
            return None
        if target.ndim == 2:
            return ~(target[:, list(self._unknown_classes)] > 0).any(dim=1)
        return ~torch.isin(target, torch.tensor(self._unknown_classes, device=target.device))

    def __repr__(self) -> str:
        return f"MaskedTeacher({self._teacher!r})"
