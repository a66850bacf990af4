"""A teacher without outputs for some samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task, Teacher
from limbeck.utils.io import require_regular_file

__all__ = ["MaskedTeacher", "load_sample_mask"]


def load_sample_mask(path: str | Path) -> Tensor:
    """The mask in a ``.npy`` file: ``[samples]`` booleans by sample id, true where a teacher has outputs."""
    import numpy as np

    try:
        # Mapped first: a header may ask for terabytes, which would be allocated.
        mask = np.array(np.load(require_regular_file(Path(path)), allow_pickle=False, mmap_mode="r"))
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError) as error:
        raise LimbeckError(
            f"{path} cannot be read as a mask ({type(error).__name__}): save one with numpy.save(path, booleans)"
        ) from error
    if mask.dtype != np.bool_ or mask.ndim != 1:
        raise LimbeckError(f"{path} must hold one boolean for each sample, got {mask.dtype} {list(mask.shape)}")
    return torch.from_numpy(mask)


@final
class MaskedTeacher(Teacher):
    """A teacher that is ``valid`` for some samples only.

    Args:
        teacher: computes the outputs; its own ``valid`` is kept.
        sample_mask: ``[samples]`` booleans by sample id (``batch["sample_id"]``), true where the teacher has outputs.
        unknown_classes: classes that the teacher does not have; it skips samples with such a label, in any of their
            rows. Samples without a label, and with mixed labels of known classes, are kept.

    A sample that a teacher skips enters no loss on that teacher, and is the ensemble of the other teachers. A sample
    that all teachers skip still enters the losses on the target.

    >>> from limbeck.tasks import Classification
    >>> from limbeck.teachers import FrozenTeacher
    >>> teacher = MaskedTeacher(FrozenTeacher(torch.nn.Linear(3, 2)), sample_mask=torch.tensor([True, False]))
    >>> teacher.predict({"input": torch.ones(2, 3), "sample_id": torch.tensor([1, 0])}, Classification(2)).valid
    tensor([False,  True])
    """

    def __init__(
        self, teacher: Teacher, *, sample_mask: Tensor | None = None, unknown_classes: Sequence[int] = ()
    ) -> None:
        self._teacher, self._sample_mask, self._unknown_classes = teacher, sample_mask, tuple(unknown_classes)

    @property
    def network(self) -> nn.Module | None:
        """The module of the wrapped teacher."""
        return self._teacher.network

    def predict(self, batch: Any, task: Task) -> Outputs:
        """Outputs of the wrapped teacher, with ``valid``."""
        outputs = self._teacher.predict(batch, task)
        masks = (outputs.valid, self._valid_by_sample(batch), self._valid_by_class(batch, task, outputs))
        present_masks = [mask for mask in masks if mask is not None]
        return replace(outputs, valid=torch.stack(present_masks).all(dim=0)) if present_masks else outputs

    def with_features(self, feature_layers: Mapping[str, str]) -> MaskedTeacher:
        """The same with the features at ``feature_layers``."""
        teacher = self._teacher.with_features(feature_layers)
        return MaskedTeacher(teacher, sample_mask=self._sample_mask, unknown_classes=self._unknown_classes)

    def to(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the wrapped teacher."""
        self._teacher.to(fn)

    def close(self) -> None:
        """Close the wrapped teacher."""
        self._teacher.close()

    def _valid_by_sample(self, batch: Any) -> Tensor | None:
        if self._sample_mask is None:
            return None
        sample_ids = batch.get("sample_id") if isinstance(batch, Mapping) else None
        if not isinstance(sample_ids, Tensor):
            raise LimbeckError("the mask of a teacher needs batches with 'sample_id': use batches of limbeck.data")
        if len(sample_ids) and int(sample_ids.max()) >= len(self._sample_mask):
            raise LimbeckError(
                "the mask of a teacher must have one entry for each training sample, got "
                f"{len(self._sample_mask)} entries and sample_id {int(sample_ids.max())}"
            )
        return self._sample_mask.to(sample_ids.device)[sample_ids]

    def _valid_by_class(self, batch: Any, task: Task, outputs: Outputs) -> Tensor | None:
        if not self._unknown_classes or (target := task.target(batch)) is None:
            return None
        if target.ndim == 2:
            is_unknown = (target[:, list(self._unknown_classes)] > 0).any(dim=1)
        else:
            is_unknown = torch.isin(target, torch.tensor(self._unknown_classes, device=target.device))
        if outputs.row_to_sample is None:
            return ~is_unknown
        # A sample with a row of an unknown class is skipped as a whole.
        num_unknown = torch.zeros(len(batch["sample_id"]), dtype=torch.long, device=target.device)
        return num_unknown.index_add(0, outputs.row_to_sample, is_unknown.long()) == 0

    def __repr__(self) -> str:
        return f"MaskedTeacher({self._teacher!r})"
