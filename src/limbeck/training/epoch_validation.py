"""Metrics on the validation split after each epoch, and what needs them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.task import EvaluableTask, Task
from limbeck.training.convert_precision import to_precision
from limbeck.training.distributed import all_gather_object
from limbeck.training.fsdp import is_fsdp
from limbeck.training.train_state import TrainState
from limbeck.utils.eval_mode import eval_mode
from limbeck.utils.random_states import get_rng_states, set_rng_states

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["require_same_validation", "require_validation", "run_validation", "validate_epoch"]


def validate_epoch(data: Any, state: TrainState) -> dict[str, float]:
    """:func:`run_validation` of the network of ``state`` on its share of the validation batches."""
    batches = _local_batches(data, state)
    if is_fsdp(state.fabric):
        batches = _equalize(batches, state.padding_batch, state.fabric)
    return run_validation(state.eval_model(), batches, state.distiller.task, state.fabric)


def run_validation(network: nn.Module, batches: Iterable[Any], task: Task, fabric: Fabric) -> dict[str, float]:
    """Compute the monitored metrics of ``network`` in eval mode.

    Args:
        network: the network, in the types of the precision.
        batches: those of this process; process r of n has every n-th batch from the r-th on.
        task: its ``monitored_metrics`` are computed of the statistics of all processes, in the order of one process, so
            the values do not depend on the number of processes.
        fabric: device, precision and processes.

    Returns:
        ``val/NAME`` of each monitored metric; empty if the task has none, or no sample has a target.
    """
    if not isinstance(task, EvaluableTask):
        return {}
    with eval_mode(network):
        local_statistics = list(_monitor(network, batches, task, fabric))
    by_process = all_gather_object(fabric, local_statistics)
    statistics = [batch for batch in chain(*zip_longest(*by_process)) if batch is not None]
    labeled = torch.cat([_drop_unlabeled(batch) for batch in statistics]) if statistics else torch.empty(0)
    if not len(labeled):
        return {}
    return {f"val/{metric.name}": float(task.metric_value(labeled, metric=metric)) for metric in task.monitored_metrics}


def _monitor(network: nn.Module, batches: Iterable[Any], task: EvaluableTask, fabric: Fabric) -> Iterator[Tensor]:
    """The statistics of each batch, through the precision; without those of padding."""
    for item in batches:
        is_padding = isinstance(item, _PaddingBatch)
        batch = to_precision(fabric, item.batch if is_padding else item)
        with fabric.strategy.precision.forward_context():
            statistics = task.monitor(network, batch)
        if not is_padding:
            yield statistics.double().cpu()


def _drop_unlabeled(statistics: Tensor) -> Tensor:
    return statistics[~statistics.isnan().all(dim=1)]


def _local_batches(data: Any, state: TrainState) -> Iterable[Any]:
    """The validation batches of this process, of ``validation_batch_size`` where the data takes a batch size."""
    fabric, training = state.fabric, state.training
    kwargs = {} if fabric.world_size == 1 else {"rank": fabric.global_rank, "world_size": fabric.world_size}
    if "batch_size" in inspect.signature(data.validation_batches).parameters:
        kwargs["batch_size"] = training.validation_batch_size or training.batch_size
    batches: Iterable[Any] = data.validation_batches(**kwargs)
    return batches


def require_validation(data: Any, state: TrainState) -> None:
    """Refuse, before training, settings that read a validation metric where there is none.

    Random states are restored, since a loader may draw its order.
    """
    rng_states = get_rng_states()
    try:
        _require_validation(data, state)
    finally:
        set_rng_states(rng_states)


def _require_validation(data: Any, state: TrainState) -> None:
    training, task = state.training, state.distiller.task
    batches = _local_batches(data, state)
    if isinstance(batches, Iterator) and batches is _local_batches(data, state):
        raise LimbeckError(
            "validation_batches() must return a new iterator at each call, got the same one twice, which is empty "
            "after the first epoch: return iter() of a list or a DataLoader"
        )
    settings = [
        name for name, is_set in (
            ("training.keep_weights best", training.keep_weights == "best"),
            ("training.early_stopping_patience", training.early_stopping_patience is not None),
            ("ReduceLROnPlateau", isinstance(state.scheduler, ReduceLROnPlateau)),
        ) if is_set
    ]  # fmt: skip
    if not settings:
        return
    if not state.monitored_metrics:
        raise LimbeckError(
            f"{settings[0]} needs a validation metric after each epoch, and {type(task).__name__} has no "
            "monitored_metrics: define them (docs/add-a-task.md), or leave the setting away"
        )
    if not _has_labels(data, batches, state):
        raise LimbeckError(
            f"{settings[0]} needs a validation metric after each epoch, and the validation data has no labeled sample: "
            "give labeled validation data, or leave the setting away"
        )
    metric = state.monitored_metrics[-1]
    mode = "max" if metric.higher_is_better else "min"
    if isinstance(state.scheduler, ReduceLROnPlateau) and state.scheduler.mode != mode:
        direction = "higher" if metric.higher_is_better else "lower"
        raise LimbeckError(
            f"the mode of ReduceLROnPlateau must be {mode!r} for val/{metric.name} ({direction} is better), got "
            f"{state.scheduler.mode!r}: set mode: {mode}"
        )


def _has_labels(data: Any, batches: Iterable[Any], state: TrainState) -> bool:
    """Whether a validation sample of any process has a target; runs the batches up to the first such."""
    if is_fsdp(state.fabric):  # a forward pass is a collective call
        return bool(validate_epoch(data, state))
    network, task = state.eval_model(), state.distiller.task
    assert isinstance(task, EvaluableTask)
    with eval_mode(network):
        statistics = _monitor(network, batches, task, state.fabric)
        has_labels = any(len(_drop_unlabeled(batch)) for batch in statistics)
    return any(all_gather_object(state.fabric, has_labels))


def require_same_validation(
    metrics: Mapping[str, float], history: Sequence[Mapping[str, Any]], monitored: Sequence[MetricSpec]
) -> None:
    """Refuse validation data that is empty in a later epoch; metrics that a callback added are not compared."""
    first = history[0] if history else {}
    names = [name for spec in monitored if (name := f"val/{spec.name}") in first and name not in metrics]
    if names:
        raise LimbeckError(
            f"the validation data must give the same batches in each epoch: it gave {names[0]} in epoch 1 and no "
            f"labeled sample in epoch {len(history) + 1}; pass a list or a DataLoader"
        )


def _equalize(batches: Iterable[Any], padding: Any, fabric: Fabric) -> Iterator[Any]:
    """Pad ``batches`` to the largest number in any process, with batches that do not count.

    The forward pass of a sharded network is a collective call. ``padding`` is used by a process that has none.
    """
    local_batches = iter(batches)
    while any(all_gather_object(fabric, (batch := next(local_batches, None)) is not None)):
        padding = padding if batch is None else batch
        yield _PaddingBatch(padding) if batch is None else batch


class _PaddingBatch(NamedTuple):
    """A batch for the forward pass only."""

    batch: Any
