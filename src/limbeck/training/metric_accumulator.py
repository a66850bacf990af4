"""Running means of what a training says of itself, kept on the device until somebody asks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self, final

import torch
from torch import Tensor

from limbeck.core.protocols import Task
from limbeck.distiller.objective import LossOutput
from limbeck.losses._ops import hard_labels
from limbeck.training.running_stats import RunningStats, merge_stats, update_stats
from limbeck.utils.eval_mode import eval_mode

__all__ = ["MetricAccumulator", "equalize_batches", "run_validation"]

_MAX_BUFFERED = 2**18


@final
class MetricAccumulator:
    """Means over the batches since the last :meth:`reset`.

    What a batch says is put by and counted for many at once: a handful of operations on a few numbers each step would
    cost as much as a small network's loss. No more than a megabyte is put by.
    """

    def __init__(self) -> None:
        self._num_flushed = 0
        self._first_nonfinite: tuple[int, list[str]] | None = None
        self.reset()

    def reset(self) -> None:
        """Begin again."""
        self._num_batches, self.num_samples, self.start_time = 0, 0, time.monotonic()
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float | Tensor] = {}
        self._buffered_temperatures: list[Mapping[str, Sequence[float | Tensor]]] = []
        self._temperature_stats: dict[str, RunningStats] = {}
        self._num_correct = self._num_labeled = 0
        self._buffered_losses: list[dict[str, Tensor]] = []
        self._buffered_logits: list[tuple[Tensor, Tensor]] = []
        self._num_buffered = 0

    def update(self, loss: LossOutput) -> None:
        """Take in one batch."""
        self._num_batches += 1
        self._weights = loss.weights
        self._buffered_losses.append(loss.by_loss)
        if loss.temperatures:
            self._buffered_temperatures.append(loss.temperatures)
        if loss.logits is not None:
            self.num_samples += len(loss.logits)
            if loss.target is not None:
                self._buffered_logits.append((loss.logits, loss.target))
                self._num_buffered += loss.logits.numel()
        if self._num_buffered > _MAX_BUFFERED or len(self._buffered_losses) > _MAX_BUFFERED // 1024:
            self._flush()

    def compute(self) -> dict[str, float]:
        """``loss``, ``loss/<name>``, ``loss_weight/<name>`` (the newest), and ``train/accuracy`` where it is known.

        Where there are several losses, ``loss_share/<name>`` too: its size as a share of the sizes of all. Where a loss
        has a temperature, ``temperature/<name>``: the mean over its rows or batches, and ``temperature_min`` and
        ``temperature_max`` of it.
        """
        self._flush()
        losses = {name: value / self._num_batches for name, value in self._sums.items()}
        metrics = {"loss": sum(losses.values())}
        if self._num_labeled:
            metrics["train/accuracy"] = self._num_correct / self._num_labeled
        metrics |= {f"loss/{name}": value for name, value in losses.items()}
        total_size = sum(map(abs, losses.values()))
        if len(losses) > 1 and total_size > 0:
            metrics |= {f"loss_share/{name}": abs(value) / total_size for name, value in losses.items()}
        for name, stats in self._temperature_stats.items():
            metrics |= {
                f"temperature/{name}": stats.mean,
                f"temperature_min/{name}": stats.minimum,
                f"temperature_max/{name}": stats.maximum,
            }
        return metrics | {f"loss_weight/{name}": float(value) for name, value in self._weights.items()}

    def first_nonfinite(self) -> tuple[int, list[str]] | None:
        """The first batch ever taken in whose loss was not finite, counted from 0, with the terms that were not.

        Looking at each loss as it comes would make the device wait at every step.
        """
        self._flush()
        return self._first_nonfinite

    def reduce(self, all_gather: Callable[[Any], list[Any]]) -> Self:
        """A meter that has seen the batches of all processes; ``all_gather`` gives what each of them has."""
        self._flush()
        states = all_gather(
            (
                self._num_batches,
                self.num_samples,
                self._num_correct,
                self._num_labeled,
                self._sums,
                self._temperature_stats,
            )
        )
        if len(states) == 1:
            return self
        merged = type(self)()
        merged.start_time, merged._weights = self.start_time, self._weights
        merged._num_batches, merged.num_samples, merged._num_correct, merged._num_labeled = (
            sum(state[i] for state in states) for i in range(4)
        )
        merged._sums = {name: math.fsum(state[4][name] for state in states) for name in self._sums}
        merged._temperature_stats = {
            name: merge_stats([state[5][name] for state in states if name in state[5]])
            for name in self._temperature_stats
        }
        return merged

    def _flush(self) -> None:
        """Count what was put by."""
        sums: dict[str, Tensor] = {}
        for name in self._buffered_losses[0] if self._buffered_losses else ():
            values = torch.stack([losses[name] for losses in self._buffered_losses]).double()
            sums[name] = values
            self._sums[name] = self._sums.get(name, 0.0) + float(values.sum())
        if self._first_nonfinite is None and not all(math.isfinite(self._sums[name]) for name in sums):
            self._first_nonfinite = self._find_first_nonfinite(sums)
        self._num_flushed += len(self._buffered_losses)
        if self._buffered_logits:
            logits = torch.cat([logits for logits, _ in self._buffered_logits])
            target = torch.cat([hard_labels(target) for _, target in self._buffered_logits])
            num_correct, num_labeled = _count_correct(logits, target)
            self._num_correct, self._num_labeled = (
                self._num_correct + int(num_correct),
                self._num_labeled + int(num_labeled),
            )
        self._temperature_stats = update_stats(self._temperature_stats, self._buffered_temperatures)
        self._buffered_losses, self._buffered_logits, self._buffered_temperatures, self._num_buffered = [], [], [], 0

    def _find_first_nonfinite(self, values: dict[str, Tensor]) -> tuple[int, list[str]] | None:
        nonfinite = {name: (~torch.isfinite(losses)).nonzero() for name, losses in values.items()}
        batch_indices = {name: int(positions[0]) for name, positions in nonfinite.items() if len(positions)}
        if not batch_indices:
            return None
        first = min(batch_indices.values())
        return self._num_flushed + first, [name for name, batch_index in batch_indices.items() if batch_index == first]


def run_validation(
    network: torch.nn.Module, batches: Iterable[Any], task: Task, to_device: Callable[[Any], Any],
    all_gather: Callable[[Any], list[Any]] = lambda share: [share],
) -> dict[str, float]:  # fmt: skip
    """Accuracy and NLL of ``network`` on ``batches``; empty where no row has a label. The mode is put back.

    Where several processes have each some of the batches, ``all_gather`` gives what each of them counted. A batch is
    counted as a whole and in float64, and the sum is exact, so it is the same however the batches are dealt out.
    """
    counts_per_batch: list[tuple[int, int, float]] = []
    with eval_mode(network):
        for item in batches:
            if isinstance(item, _PaddingBatch):
                task.outputs(network, to_device(item.batch))
                continue
            batch = to_device(item)
            logits, target = task.outputs(network, batch).logits, task.target(batch)
            if logits is None or target is None:
                continue
            labels = hard_labels(target)
            num_correct, num_labeled = _count_correct(logits, labels)
            losses = torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=-100, reduction="none")
            counts_per_batch.append((int(num_correct), int(num_labeled), float(losses.cpu().double().sum())))
    all_counts = [count for counts in all_gather(counts_per_batch) for count in counts]
    total_labeled = sum(num_labeled for _, num_labeled, _ in all_counts)
    if not total_labeled:
        return {}
    total_correct, nll = (
        sum(num_correct for num_correct, _, _ in all_counts),
        math.fsum(loss for _, _, loss in all_counts),
    )
    return {"val/accuracy": total_correct / total_labeled, "val/nll": nll / total_labeled}


def equalize_batches(
    batches: Iterable[Any], make_padding: Callable[[], Any], all_gather: Callable[[Any], list[Any]]
) -> Iterator[Any]:
    """``batches``, and then some that :func:`run_validation` does not count, until no process has any left.

    A network in shares answers in all processes or in none. ``make_padding`` gives a batch where this process has none at all.
    """
    local_batches, padding = iter(batches), None
    while any(all_gather((batch := next(local_batches, None)) is not None)):
        padding = batch if batch is not None else make_padding() if padding is None else padding
        yield _PaddingBatch(padding) if batch is None else batch


class _PaddingBatch(NamedTuple):
    """A batch that is shown for company only."""

    batch: Any


def _count_correct(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How many rows are right, and how many have a label, of class numbers ``labels``."""
    return (logits.argmax(dim=1) == labels).sum(), (labels >= 0).sum()
