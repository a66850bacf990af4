"""Several students trained together by mutual learning (Zhang et al., CVPR 2018, https://arxiv.org/abs/1706.00384)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.core.schedules import Schedule
from limbeck.distiller.per_teacher import divide_weight


@final
class PeerStudents(nn.Module):
    """Students by name as one module to train, with :class:`MutualTask` as the task. It cannot be called itself."""

    def __init__(self, students: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if len(students) < 2:
            raise LimbeckError(f"peers must be at least two students, got {', '.join(students) or 'none'}")
        self.names: tuple[str, ...] = ()
        seen_ids: set[int] = set()
        for name, student in students.items():
            tensor_ids = {id(tensor) for tensor in (*student.parameters(), *student.buffers())}
            if tensor_ids & seen_ids:
                raise LimbeckError(f"the student {name!r} shares weights with another one: give copy.deepcopy(student)")
            seen_ids |= tensor_ids
            if not name or "." in name or hasattr(self, name):
                raise LimbeckError(f"a student among peers cannot be called {name!r}: use another name")
            self.add_module(name, student)
        self.names = tuple(students)

    def students(self) -> dict[str, nn.Module]:
        """The students by name."""
        return {name: self.get_submodule(name) for name in self.names}

    def forward(self, *_: Any, **__: Any) -> Any:
        """Raise an error: several students have no single output."""
        raise LimbeckError(f"PeerStudents has no forward pass: MutualTask calls {', '.join(self.names)}")


@final
@dataclass(frozen=True, slots=True)
class MutualTask:
    """A task for :class:`PeerStudents`: concatenates the rows of all students and repeats the target.

    The rows of a teacher are repeated as well, so every loss on logits works for all students.

    Args:
        task: task of each student.
        num_peers: number of students.
    """

    task: Task
    num_peers: int

    @property
    def classes(self) -> Any:
        """Number of classes of the task, if it has them."""
        return getattr(self.task, "classes", None)

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """The rows of each student, or the repeated rows of a single network."""
        if isinstance(network, PeerStudents):
            logits = [self.task.outputs(student, batch).require_logits() for student in network.students().values()]
            return Outputs(logits=torch.cat(logits))
        outputs = self.task.outputs(network, batch)
        return replace(outputs, logits=None if outputs.logits is None else torch.cat([outputs.logits] * self.num_peers))

    def target(self, batch: Any) -> Tensor | None:
        """The target, repeated for each student."""
        target = self.task.target(batch)
        return None if target is None else torch.cat([target] * self.num_peers)


def scale_weights_for_peers(weights: Mapping[str, float | Schedule], num_peers: int) -> dict[str, float | Schedule]:
    """Multiply weights by ``num_peers``, since a mean over the rows of all students divides the loss of each by it.

    >>> scale_weights_for_peers({"target": 0.5}, 2)
    {'target': 1.0}
    """
    return {name: divide_weight(weight, 1 / num_peers) for name, weight in weights.items()}
