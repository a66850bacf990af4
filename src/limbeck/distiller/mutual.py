"""Several students that learn together in one training (Zhang et al., CVPR 2018, https://arxiv.org/abs/1706.00384)."""

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

__all__ = ["MutualTask", "PeerStudents", "scale_weights_for_peers"]


@final
class PeerStudents(nn.Module):
    """Students by name, as one module to train; each is a child of its name.

    With :class:`MutualTask` as the task, its rows are those of the first student, then those of the second, and so on.
    It is an error to call it.
    """

    def __init__(self, students: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if len(students) < 2:
            raise LimbeckError(f"peers are at least two students, and here is {', '.join(students) or 'none'}")
        self.names: tuple[str, ...] = ()
        seen_ids: set[int] = set()
        for name, student in students.items():
            tensor_ids = {id(tensor) for tensor in (*student.parameters(), *student.buffers())}
            if tensor_ids & seen_ids:
                raise LimbeckError(f"the student {name!r} shares weights with another one: give copy.deepcopy(student)")
            seen_ids |= tensor_ids
            if not name or "." in name or hasattr(self, name):
                raise LimbeckError(f"a student among peers cannot be called {name!r}: choose another name")
            self.add_module(name, student)
        self.names = tuple(students)

    def students(self) -> dict[str, nn.Module]:
        """Each student by its name."""
        return {name: self.get_submodule(name) for name in self.names}

    def forward(self, *_: Any, **__: Any) -> Any:
        """Nothing: what several students say is no one answer."""
        raise LimbeckError(f"peers are called one by one, by MutualTask: {', '.join(self.names)}")


@final
@dataclass(frozen=True, slots=True)
class MutualTask:
    """A task for :class:`PeerStudents`: the rows of every student one after the other, and the truth as often.

    Arguments:
        task: what a batch means to each of them.
        num_peers: how many they are.

    A teacher's rows are repeated as often, so every term on responses works for all students at once.
    """

    task: Task
    num_peers: int

    @property
    def classes(self) -> Any:
        """How many classes the task has, if it says so."""
        return getattr(self.task, "classes", None)

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """What each student says, or what a single network says as often as there are students."""
        if isinstance(network, PeerStudents):
            logits = [self.task.outputs(student, batch).require_logits() for student in network.students().values()]
            return Outputs(logits=torch.cat(logits))
        outputs = self.task.outputs(network, batch)
        return replace(outputs, logits=None if outputs.logits is None else torch.cat([outputs.logits] * self.num_peers))

    def target(self, batch: Any) -> Tensor | None:
        """The truth, as often as there are students."""
        target = self.task.target(batch)
        return None if target is None else torch.cat([target] * self.num_peers)


def scale_weights_for_peers(weights: Mapping[str, float | Schedule], num_peers: int) -> dict[str, float | Schedule]:
    """Weights times ``num_peers``: a mean over the rows of all is for each a share, and each is to have its own loss whole.

    >>> scale_weights_for_peers({"target": 0.5}, 2)
    {'target': 1.0}
    """
    return {name: divide_weight(weight, 1 / num_peers) for name, weight in weights.items()}
