"""Latencies of a report: one for each architecture, and which of them count as equal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from limbeck.report.record_sections import Latency, ModelRecord
from limbeck.utils.timing import median_interval

_TOLERANCE = 1.05
"""Latencies without an interval, of older records, whose ratio is below this count as equal."""


class LatencyInterval(NamedTuple):
    """A median in ms with its 95 % interval."""

    median: float
    low: float
    high: float

    @classmethod
    def from_latency(cls, latency: Latency | None) -> LatencyInterval | None:
        """That of a record; ``None`` where it has none."""
        if latency is None or not latency.median:
            return None
        low, high = latency.low or latency.median / _TOLERANCE**0.5, latency.high or latency.median * _TOLERANCE**0.5
        return cls(latency.median, low, high)

    def equals(self, other: LatencyInterval) -> bool:
        """Whether the intervals overlap, so that the two cannot be ranked.

        >>> first, second = LatencyInterval(0.39, 0.36, 0.44), LatencyInterval(0.51, 0.43, 0.60)
        >>> first.equals(second), first.equals(LatencyInterval(0.9, 0.8, 1.0))
        (True, False)
        """
        return self.low <= other.high and other.low <= self.high


def architecture_key(model: ModelRecord) -> tuple[object, ...]:
    """Equal for networks of equal structure; of older records parameters, FLOPs and size stand for it."""
    if model.architecture is not None:
        return (model.architecture,)
    return model.parameters, model.flops, model.bytes, model.title if model.parameters is None else ""


def pool_latencies(latencies: Iterable[LatencyInterval]) -> LatencyInterval:
    """The latency of one architecture that was measured several times: the median of the medians.

    The interval is that of the median over measurements, and of fewer than 6 all that their intervals cover.

    >>> pool_latencies([LatencyInterval(0.39, 0.38, 0.4), LatencyInterval(0.51, 0.5, 0.53)])
    LatencyInterval(median=0.45, low=0.38, high=0.53)
    """
    measured = list(dict.fromkeys(latencies))  # the models of one run share a measurement
    medians = [latency.median for latency in measured]
    low, high = median_interval(medians)
    if len(measured) < 6:
        low, high = min(latency.low for latency in measured), max(latency.high for latency in measured)
    return LatencyInterval(median(medians), low, high)


def model_latencies(models: Mapping[str, ModelRecord]) -> dict[str, LatencyInterval]:
    """The latency of each model of a run that has one; the same for models of equal structure."""
    measured: dict[tuple[object, ...], list[LatencyInterval]] = {}
    for model in models.values():
        if (latency := LatencyInterval.from_latency(model.latency_ms)) is not None:
            measured.setdefault(architecture_key(model), []).append(latency)
    return {
        name: pool_latencies(measured[architecture_key(model)]) for name, model in models.items()
        if LatencyInterval.from_latency(model.latency_ms) is not None
    }  # fmt: skip


def merge_equal_latencies(latencies: Sequence[LatencyInterval]) -> list[float]:
    """For each latency the value at which it is drawn: the same for those that equal the fastest of their group.

    >>> a, b, c = LatencyInterval(1.0, 0.9, 1.1), LatencyInterval(1.2, 1.05, 1.3), LatencyInterval(2.0, 1.9, 2.1)
    >>> merge_equal_latencies([b, c, a])
    [1.1, 2.0, 1.1]
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(latencies)), key=lambda index: latencies[index].median):
        if groups and latencies[groups[-1][0]].equals(latencies[index]):
            groups[-1].append(index)
        else:
            groups.append([index])
    merged = {index: median(latencies[member].median for member in group) for group in groups for index in group}
    return [merged[index] for index in range(len(latencies))]
