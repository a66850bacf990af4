"""Metrics on the validation split after each epoch, and what needs them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Task
from limbeck.losses._ops import hard_labels
from limbeck.training.distributed import all_gather_object
from limbeck.training.metric_accumulator import count_correct
from limbeck.training.train_state import TrainState
from limbeck.utils.eval_mode import eval_mode
from limbeck.utils.random_states import get_rng_states, set_rng_states

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = [
    "equalize_batches",
    "local_validation_batches",
    "require_same_validation",
    "require_validation",
    "run_validation",
]


def local_validation_batches(data: Any, fabric: Fabric) -> Iterable[Any]:
    """The validation batches of this process."""
    rank_kwargs = {} if fabric.world_size == 1 else {"rank": fabric.global_rank, "world_size": fabric.world_size}
    batches: Iterable[Any] = data.validation_batches(**rank_kwargs)
    return batches


def require_validation(data: Any, state: TrainState) -> None:
    """Refuse, before training, settings that read a validation metric where no sample can give one.

    Random states are restored, since a loader may draw its order.
    """
    rng_states = get_rng_states()
    try:
        _require_validation(data, state)
    finally:
        set_rng_states(rng_states)


def _require_validation(data: Any, state: TrainState) -> None:
    fabric, training = state.fabric, state.training
    batches = local_validation_batches(data, fabric)
    if isinstance(batches, Iterator) and batches is local_validation_batches(data, fabric):
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
    has_labels = any(_has_labels(state.distiller.task, batch) for batch in batches)
    if any(all_gather_object(fabric, has_labels)):
        return
    raise LimbeckError(
        f"{settings[0]} needs a validation metric after each epoch, and the validation data has no labeled sample: "
        "give labeled validation data, or leave the setting away"
    )


def require_same_validation(metrics: Mapping[str, float], history: Sequence[Mapping[str, Any]]) -> None:
    """Refuse validation data that is empty in a later epoch."""
    names = [name for name in (history[0] if history else ()) if name.startswith("val/") and name not in metrics]
    if names:
        raise LimbeckError(
            f"the validation data must give the same batches in each epoch: it gave {names[0]} in epoch 1 and no "
            f"labeled sample in epoch {len(history) + 1}; pass a list or a DataLoader"
        )


def _has_labels(task: Task, batch: Any) -> bool:
    target = task.target(batch)
    return target is not None and bool((hard_labels(target) >= 0).any())


def run_validation(
    network: torch.nn.Module, batches: Iterable[Any], task: Task, to_device: Callable[[Any], Any],
    all_gather: Callable[[Any], list[Any]] = lambda counts: [counts],
) -> dict[str, float]:  # fmt: skip
    """Compute accuracy and NLL of ``network`` in eval mode; empty if no row has a label.

    The NLL is summed in float64 by batch and then exactly, so it does not depend on how batches are distributed over
    processes, whose counts ``all_gather`` collects.
    """
    local_counts: list[tuple[int, int, float]] = []
    with eval_mode(network):
        for item in batches:
            is_padding = isinstance(item, _PaddingBatch)
            batch = to_device(item.batch if is_padding else item)
            logits, target = task.outputs(network, batch).logits, None if is_padding else task.target(batch)
            if logits is None or target is None:
                continue
            labels = hard_labels(target)
            losses = torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=-100, reduction="none")
            local_counts.append((*count_correct(logits, labels), float(losses.cpu().double().sum())))
    counts = [count for process_counts in all_gather(local_counts) for count in process_counts]
    num_labeled = sum(labeled for _, labeled, _ in counts)
    if not num_labeled:
        return {}
    nll = math.fsum(loss for _, _, loss in counts)
    return {"val/accuracy": sum(correct for correct, _, _ in counts) / num_labeled, "val/nll": nll / num_labeled}


def equalize_batches(batches: Iterable[Any], padding: Any, all_gather: Callable[[Any], list[Any]]) -> Iterator[Any]:
    """Pad ``batches`` to the largest number in any process, with batches that :func:`run_validation` does not count.

    The forward pass of a sharded network is a collective call. ``padding`` is used by a process that has none.
    """
    local_batches = iter(batches)
    while any(all_gather((batch := next(local_batches, None)) is not None)):
        padding = padding if batch is None else batch
        yield _PaddingBatch(padding) if batch is None else batch


class _PaddingBatch(NamedTuple):
    """A batch for the forward pass only."""

    batch: Any
