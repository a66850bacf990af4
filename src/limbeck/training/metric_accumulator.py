"""Running means of training metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self, final

import torch
from torch import Tensor

from limbeck.distiller.objective import LossOutput
from limbeck.losses._ops import hard_labels

__all__ = ["MetricAccumulator", "RunningStats", "merge_stats", "update_stats"]

_MAX_BUFFERED = 2**18
_MAX_LOGITS: Final = 2**20
"""Logits of a batch up to which training accuracy is computed; pixels or tokens by a large vocabulary take too long."""


class RunningStats(NamedTuple):
    """Sum, count, minimum and maximum of values."""

    total: float
    num_values: int
    minimum: float
    maximum: float

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return self.total / self.num_values


def update_stats(
    stats: Mapping[str, RunningStats], batches: Sequence[Mapping[str, Sequence[float | Tensor]]]
) -> dict[str, RunningStats]:
    """Update ``stats`` by the values of ``batches``; synchronizes with the device once per name.

    >>> update_stats({"soft": RunningStats(4.0, 1, 4.0, 4.0)}, [{"soft": [2.0]}, {"soft": [torch.tensor([1.0, 9.0])]}])
    {'soft': RunningStats(total=16.0, num_values=4, minimum=1.0, maximum=9.0)}
    """
    by_name: dict[str, list[float | Tensor]] = {}
    for batch in batches:
        for name, values in batch.items():
            by_name.setdefault(name, []).extend(values)
    updated = dict(stats)
    for name, values in by_name.items():
        numbers = [value for value in values if not isinstance(value, Tensor)]
        tensors = [value for value in values if isinstance(value, Tensor)]
        new = [RunningStats(math.fsum(numbers), len(numbers), min(numbers), max(numbers))] if numbers else []
        if tensors and len(combined := torch.cat(tensors).double()):
            total, minimum, maximum = torch.stack([combined.sum(), combined.min(), combined.max()]).tolist()
            new.append(RunningStats(total, len(combined), minimum, maximum))
        if new:
            updated[name] = merge_stats([stats[name], *new] if name in stats else new)
    return updated


def merge_stats(stats: Sequence[RunningStats]) -> RunningStats:
    """Merge statistics of disjoint values.

    >>> merge_stats([RunningStats(4.0, 1, 4.0, 4.0), RunningStats(4.0, 2, 1.0, 3.0)])
    RunningStats(total=8.0, num_values=3, minimum=1.0, maximum=4.0)
    """
    totals, counts, minima, maxima = zip(*stats, strict=True)
    return RunningStats(math.fsum(totals), sum(counts), min(minima), max(maxima))


@final
class MetricAccumulator:
    """Means over the batches since the last :meth:`reset`.

    Batches are buffered on the device (at most one megabyte) and reduced together, since operations on a few numbers in
    each step would take as long as the loss of a small network.
    """

    def __init__(self) -> None:
        self._num_flushed = 0
        self._has_classes = True
        self._first_nonfinite: tuple[int, list[str]] | None = None
        self.reset()

    def reset(self) -> None:
        """Clear all metrics."""
        self._num_batches, self.num_samples, self.start_time = 0, 0, time.monotonic()
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float | Tensor] = {}
        self._temperature_stats: dict[str, RunningStats] = {}
        self._num_correct = self._num_labeled = 0
        self._clear_buffers()

    def _clear_buffers(self) -> None:
        self._buffered_losses: list[dict[str, Tensor]] = []
        self._buffered_temperatures: list[Mapping[str, Sequence[float | Tensor]]] = []
        self._buffered_rows: list[tuple[Tensor, Tensor]] = []
        self._num_buffered = 0

    def update(self, loss: LossOutput, num_samples: int) -> None:
        """Add one batch of ``num_samples``."""
        self._num_batches += 1
        self.num_samples += num_samples
        self._weights = loss.weights
        self._buffered_losses.append(loss.by_loss)
        if loss.temperatures:
            self._buffered_temperatures.append(loss.temperatures)
        if loss.logits is not None and loss.target is not None and _are_classes(loss.logits, loss.target):
            self._buffered_rows.append((loss.logits, loss.target))
            self._num_buffered += loss.logits.numel()
        if self._num_buffered > _MAX_BUFFERED or len(self._buffered_losses) > _MAX_BUFFERED // 1024:
            self._flush()

    def compute(self) -> dict[str, float]:
        """Compute the means.

        Returns:
            ``loss``, ``loss/<name>``, ``loss_weight/<name>`` (the newest), ``train/accuracy`` if rows have
            one class each and are not too many,
            ``loss_share/<name>`` (of the absolute values) if there are several losses, and ``temperature/<name>``,
            ``temperature_min/<name>`` and ``temperature_max/<name>`` for losses with a temperature.
        """
        self._flush()
        losses = {name: value / self._num_batches for name, value in self._sums.items()}
        metrics = {"loss": sum(losses.values())}
        if self._num_labeled and self._has_classes:
            metrics["train/accuracy"] = self._num_correct / self._num_labeled
        metrics |= {f"loss/{name}": value for name, value in losses.items()}
        total_size = sum(map(abs, losses.values()))
        if len(losses) > 1 and total_size > 0:
            metrics |= {f"loss_share/{name}": abs(value) / total_size for name, value in losses.items()}
        for name, stats in self._temperature_stats.items():
            metrics[f"temperature/{name}"] = stats.mean
            metrics[f"temperature_min/{name}"] = stats.minimum
            metrics[f"temperature_max/{name}"] = stats.maximum
        return metrics | {f"loss_weight/{name}": float(value) for name, value in self._weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """Sums, counts and duration since :meth:`reset` as plain values, for a checkpoint within an epoch."""
        self._flush()
        return {
            "counts": [self._num_batches, self.num_samples, self._num_correct, self._num_labeled],
            "sums": dict(self._sums),
            "temperature_stats": {name: list(stats) for name, stats in self._temperature_stats.items()},
            "seconds": time.monotonic() - self.start_time,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.reset()
        self._num_batches, self.num_samples, self._num_correct, self._num_labeled = state["counts"]
        self._sums = dict(state["sums"])
        self._temperature_stats = {name: RunningStats(*values) for name, values in state["temperature_stats"].items()}
        self.start_time = time.monotonic() - state["seconds"]

    def first_nonfinite(self) -> tuple[int, list[str]] | None:
        """Index of the first batch with a non-finite loss since construction, and the names of these losses."""
        self._flush()
        return self._first_nonfinite

    def reduce(self, all_gather: Callable[[Any], list[Any]]) -> Self:
        """Merge the accumulators of all processes; ``all_gather`` returns the argument of each."""
        self._flush()
        counts = (self._num_batches, self.num_samples, self._num_correct, self._num_labeled)
        states = all_gather((counts, self._sums, self._temperature_stats))
        has_classes = all(all_gather(self._has_classes))
        if len(states) == 1:
            return self
        merged = type(self)()
        merged._has_classes = has_classes
        merged.start_time, merged._weights = self.start_time, self._weights
        merged._num_batches, merged.num_samples, merged._num_correct, merged._num_labeled = (
            sum(values) for values in zip(*(counts for counts, _, _ in states), strict=True)
        )
        merged._sums = {name: math.fsum(sums[name] for _, sums, _ in states) for name in self._sums}
        merged._temperature_stats = {
            name: merge_stats([stats[name] for _, _, stats in states if name in stats])
            for name in self._temperature_stats
        }
        return merged

    def _flush(self) -> None:
        """Reduce the buffered batches."""
        values = {
            name: torch.stack([losses[name] for losses in self._buffered_losses]).double()
            for name in (self._buffered_losses[0] if self._buffered_losses else ())
        }
        for name, losses in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(losses.sum())
        if self._first_nonfinite is None and not all(math.isfinite(self._sums[name]) for name in values):
            nonfinite = {name: (~torch.isfinite(losses)).nonzero().flatten() for name, losses in values.items()}
            indices = {name: int(positions[0]) for name, positions in nonfinite.items() if len(positions)}
            if indices:
                first = min(indices.values())
                names = [name for name, index in indices.items() if index == first]
                self._first_nonfinite = self._num_flushed + first, names
        self._num_flushed += len(self._buffered_losses)
        if self._buffered_rows:
            logits, targets = zip(*self._buffered_rows, strict=True)
            if all(map(_are_distributions, targets)):
                labels = torch.cat(list(map(hard_labels, targets)))
                self._num_correct += int((torch.cat(logits).argmax(dim=1) == labels).sum())
                self._num_labeled += int((labels >= 0).sum())
            else:
                self._has_classes = False
        self._temperature_stats = update_stats(self._temperature_stats, self._buffered_temperatures)
        self._clear_buffers()


def _are_classes(logits: Tensor, target: Tensor) -> bool:
    """Whether each row has one class, by shapes and types, and the batch is small enough to compute accuracy."""
    if logits.shape[1] < 2 or logits.numel() > _MAX_LOGITS:
        return False
    return target.shape == logits.shape if target.is_floating_point() else target.shape == logits.shape[:1]


def _are_distributions(target: Tensor) -> bool:
    """Whether rows of a float target sum to 1, or to 0 for no label; several labels or values to regress do not."""
    if not target.is_floating_point():
        return True
    sums = target.sum(dim=1)
    return bool((((sums - 1).abs() < 1e-2) | (sums == 0)).all())
