"""The samples, networks and comparisons of :func:`limbeck.testing.check_task`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from limbeck.core.metric_spec import MetricSpec
from limbeck.core.task import EvaluableTask, Scores
from limbeck.data.module import DataModule, iterate_batches
from limbeck.data.split import UNLABELED, Split
from limbeck.utils.eval_mode import eval_mode

__all__ = ["TaskCase", "is_close", "same_leaves"]

_NUM_SAMPLES = 8


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCase:
    """What the checks of a task run on.

    Attributes:
        task: the task.
        data: its data.
        network: a network, in eval mode.
        teacher: another network of the task.
        oracle: returns what a perfect network returns for a batch.
        split: at most eight validation samples with a target.
    """

    task: EvaluableTask
    data: DataModule
    network: nn.Module
    teacher: nn.Module | None
    oracle: Callable[[Any], Any] | None
    split: Split = field(init=False)

    def __post_init__(self) -> None:
        labeled = self.data.validation.select_labeled()
        assert len(labeled) >= 4, f"validation data must have at least 4 samples with a target, got {len(labeled)}"
        count = min(_NUM_SAMPLES, len(labeled))
        indices = torch.arange(count) * len(labeled) // count
        object.__setattr__(self, "split", labeled.subset(indices))

    @property
    def num_samples(self) -> int:
        """Number of samples of :attr:`split`."""
        return len(self.split)

    @property
    def half_unlabeled(self) -> Split:
        """:attr:`split` with the target of every other sample removed, from the first on."""
        is_hidden = torch.arange(self.num_samples) % 2 == 0
        return replace(self.split, target=self.split.target.masked_fill(is_hidden, UNLABELED))

    def batch(self, indices: Sequence[int] | None = None, *, split: Split | None = None, raw: bool = False) -> Any:
        """One batch of the samples at ``indices`` (``None``: all); ``raw``: before normalization."""
        split = split or self.split
        split = split if indices is None else split.subset(torch.tensor(list(indices)))
        return next(iterate_batches(split, None if raw else self.data.normalization))

    def score(self, batch: Any, network: nn.Module | None = None) -> Scores:
        """``task.score`` as the evaluation calls it."""
        network = network or self.network
        with eval_mode(network):
            return self.task.score(network, batch)

    def monitor(self, batch: Any, network: nn.Module | None = None) -> Tensor:
        """``task.monitor`` as the training calls it."""
        network = network or self.network
        with eval_mode(network):
            return self.task.monitor(network, batch)

    def metrics(self) -> list[tuple[MetricSpec | None, str, Callable[..., Tensor]]]:
        """The primary metric (``None``) and each monitored one: its name, and the function of its statistics."""
        monitored = [(spec, spec.name, self.monitor) for spec in self.task.monitored_metrics]
        return [(None, self.task.primary_metric.name, lambda *args: self.score(*args).statistics), *monitored]


def is_close(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have one shape and are equal to rounding, NaN to NaN."""
    return first.shape == second.shape and torch.allclose(
        first.double().cpu(), second.double().cpu(), rtol=1e-4, atol=1e-5, equal_nan=True
    )


def same_leaves(first: Any, second: Any) -> bool:
    """Whether two trees have equal leaves, tensors to rounding."""
    leaves = tree_leaves(first), tree_leaves(second)
    return len(leaves[0]) == len(leaves[1]) and all(
        is_close(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or bool(a == b)
        for a, b in zip(*leaves, strict=True)
    )
