"""Several students trained together by mutual learning (Zhang et al., CVPR 2018, https://arxiv.org/abs/1706.00384)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs
from limbeck.core.schedules import Schedule
from limbeck.core.task import EvaluableTask, Metrics, Scores, Task
from limbeck.distiller.per_teacher import divide_weight
from limbeck.utils.count_samples import count_samples


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
    """A task for :class:`PeerStudents`: the rows of all students one after the other, and the target for each.

    The outputs of a teacher are repeated for each student, so every loss on rows works for all students. Validation
    metrics are those of all students together; for a single network, those of the task.

    Args:
        task: task of each student.
        num_peers: number of students.

    Raises:
        LimbeckError: the task has ``prepare_batch``, which changes a batch by its one student.
    """

    task: Task
    num_peers: int

    def __post_init__(self) -> None:
        if hasattr(self.task, "prepare_batch"):
            raise LimbeckError(
                f"prepare_batch of {type(self.task).__name__} changes a batch by its one student, and peers are "
                f"{self.num_peers}: train the student without peers"
            )

    @property
    def classes(self) -> Any:
        """Number of classes of the task, if it has them."""
        return getattr(self.task, "classes", None)

    @property
    def temperatures(self) -> Any:
        """Usual range of temperatures of the task, if it has one."""
        return getattr(self.task, "temperatures", None)

    @property
    def primary_metric(self) -> Any:
        """That of the task, if it has metrics."""
        return self._inner.primary_metric

    @property
    def monitored_metrics(self) -> tuple[MetricSpec, ...]:
        """Those of the task; none where it has no metrics."""
        return self.task.monitored_metrics if isinstance(self.task, EvaluableTask) else ()

    @property
    def metric_specs(self) -> Any:
        """Those of the task, if it has metrics."""
        return self._inner.metric_specs

    @property
    def supervised_loss(self) -> Any:
        """That of the task, if it has metrics."""
        return self._inner.supervised_loss

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """The outputs of each student, or the repeated outputs of a single network."""
        if isinstance(network, PeerStudents):
            return _concatenate([self.task.outputs(student, batch) for student in network.students().values()], batch)
        return _concatenate([self.task.outputs(network, batch)] * self.num_peers, batch)

    def target(self, batch: Any) -> Tensor | None:
        """The target, repeated for each student."""
        target = self.task.target(batch)
        return None if target is None else torch.cat([target] * self.num_peers)

    def sample_targets(self, batch: Any) -> Mapping[str, Tensor]:
        """The targets that are not by row, repeated for each student."""
        get_targets = getattr(self.task, "sample_targets", None)
        targets: Mapping[str, Tensor] = {} if get_targets is None else get_targets(batch)
        return {name: torch.cat([tensor] * self.num_peers) for name, tensor in targets.items()}

    def monitor(self, network: nn.Module, batch: Any) -> Tensor:
        """The statistics of each student, one after the other."""
        students = network.students().values() if isinstance(network, PeerStudents) else (network,)
        return torch.cat([self._inner.monitor(student, batch) for student in students])

    def score(self, network: nn.Module, batch: Any) -> Scores:
        """Predictions of one network."""
        scores: Scores = self._inner.score(network, batch)
        return scores

    def metric_value(
        self, statistics: Tensor, weights: Tensor | None = None, *, metric: MetricSpec | None = None
    ) -> Tensor:
        """The metric of the task."""
        value: Tensor = self._inner.metric_value(statistics, weights, metric=metric)
        return value

    def metrics(self) -> Metrics:
        """Those of the task."""
        metrics: Metrics = self._inner.metrics()
        return metrics

    @property
    def _inner(self) -> Any:
        """The task, which may have no metrics: an AttributeError then."""
        return self.task


def _concatenate(outputs: Sequence[Outputs], batch: Any) -> Outputs:
    """Several outputs for ``batch`` as those for a batch of as many times the size.

    ``extra``, which belongs to a network, is left out, except where all are outputs of one network.
    """
    first = outputs[0]

    def join(name: str, tensors: Sequence[Tensor]) -> Tensor:
        shapes = {tuple(tensor.shape[1:]) for tensor in tensors}
        if len(shapes) > 1:
            raise LimbeckError(f"the outputs {name!r} of all peers must have one shape, got {sorted(shapes)}")
        return torch.cat(list(tensors))

    def join_all(name: str) -> Any:
        values = [getattr(output, name) for output in outputs]
        if isinstance(values[0], Mapping):
            return {key: join(f"{name}.{key}", [value[key] for value in values]) for key in values[0]}
        return None if values[0] is None else join(name, values)

    names = ("logits", "spatial_logits", "embedding", "features", "by_row", "by_sample", "valid")
    offsets = [output.row_to_sample for output in outputs if output.row_to_sample is not None]
    num_samples = count_samples(batch) if offsets else 0
    row_to_sample = torch.cat([rows + index * num_samples for index, rows in enumerate(offsets)]) if offsets else None
    extra = first.extra if all(output is first for output in outputs) else {}
    return Outputs(**{name: join_all(name) for name in names}, row_to_sample=row_to_sample, extra=extra)


def scale_weights_for_peers(weights: Mapping[str, float | Schedule], num_peers: int) -> dict[str, float | Schedule]:
    """Multiply weights by ``num_peers``, since a mean over the rows of all students divides the loss of each by it.

    >>> scale_weights_for_peers({"target": 0.5}, 2)
    {'target': 1.0}
    """
    return {name: divide_weight(weight, 1 / num_peers) for name, weight in weights.items()}
