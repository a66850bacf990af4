"""Running means of what a training says of itself, kept on the device until somebody asks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self, final

import torch
from torch import Tensor

from limbeck.core.protocols import Task
from limbeck.distiller.objective import Loss
from limbeck.losses._ops import likeliest
from limbeck.training.running_stats import Span, joined, spans

__all__ = ["Meter", "in_step", "measure"]

_MOST_HELD = 2**18


@final
class Meter:
    """Means over the batches since the last :meth:`reset`.

    What a batch says is put by and counted for many at once: a handful of operations on a few numbers each step would
    cost as much as a small network's loss. No more than a megabyte is put by.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._bad: tuple[int, list[str]] | None = None
        self.reset()

    def reset(self) -> None:
        """Begin again."""
        self._batches, self.samples, self.since = 0, 0, time.monotonic()
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float | Tensor] = {}
        self._taus: list[Mapping[str, Sequence[float | Tensor]]] = []
        self._spans: dict[str, Span] = {}
        self._right = self._counted = 0
        self._parts: list[dict[str, Tensor]] = []
        self._answers: list[tuple[Tensor, Tensor]] = []
        self._held = 0

    def add(self, loss: Loss) -> None:
        """Take in one batch."""
        self._batches += 1
        self._weights = loss.weights
        self._parts.append(loss.parts)
        if loss.taus:
            self._taus.append(loss.taus)
        if loss.logits is not None:
            self.samples += len(loss.logits)
            if loss.target is not None:
                self._answers.append((loss.logits, loss.target))
                self._held += loss.logits.numel()
        if self._held > _MOST_HELD or len(self._parts) > _MOST_HELD // 1024:
            self._count()

    def means(self) -> dict[str, float]:
        """``loss``, ``loss/<term>``, ``weight/<term>`` (the newest), and ``train_accuracy`` where it is known.

        Where there are several terms, ``share/<term>`` too: its size as a share of the sizes of all. Where a term has a
        temperature, ``tau/<term>``: the mean over its rows or batches, and ``tau_min`` and ``tau_max`` of it.
        """
        self._count()
        parts = {name: value / self._batches for name, value in self._sums.items()}
        means = {"loss": sum(parts.values())}
        if self._counted:
            means["train_accuracy"] = self._right / self._counted
        means |= {f"loss/{name}": value for name, value in parts.items()}
        sizes = sum(map(abs, parts.values()))
        if len(parts) > 1 and sizes > 0:
            means |= {f"share/{name}": abs(value) / sizes for name, value in parts.items()}
        for name, each in self._spans.items():
            means |= {f"tau/{name}": each.mean, f"tau_min/{name}": each.low, f"tau_max/{name}": each.high}
        return means | {f"weight/{name}": float(value) for name, value in self._weights.items()}

    def bad(self) -> tuple[int, list[str]] | None:
        """The first batch ever taken in whose loss was not finite, counted from 0, with the terms that were not.

        Looking at each loss as it comes would make the device wait at every step.
        """
        self._count()
        return self._bad

    def together(self, everyone: Callable[[Any], list[Any]]) -> Self:
        """A meter that has seen the batches of all processes; ``everyone`` gives what each of them has."""
        self._count()
        shares = everyone((self._batches, self.samples, self._right, self._counted, self._sums, self._spans))
        if len(shares) == 1:
            return self
        all_ = type(self)()
        all_.since, all_._weights = self.since, self._weights
        all_._batches, all_.samples, all_._right, all_._counted = (sum(share[i] for share in shares) for i in range(4))
        all_._sums = {name: math.fsum(share[4][name] for share in shares) for name in self._sums}
        all_._spans = {name: joined([share[5][name] for share in shares if name in share[5]]) for name in self._spans}
        return all_

    def _count(self) -> None:
        """Count what was put by."""
        sums: dict[str, Tensor] = {}
        for name in self._parts[0] if self._parts else ():
            values = torch.stack([parts[name] for parts in self._parts]).double()
            sums[name] = values
            self._sums[name] = self._sums.get(name, 0.0) + float(values.sum())
        if self._bad is None and not all(math.isfinite(self._sums[name]) for name in sums):
            self._bad = self._first_bad(sums)
        self._seen += len(self._parts)
        if self._answers:
            logits = torch.cat([logits for logits, _ in self._answers])
            target = torch.cat([likeliest(target) for _, target in self._answers])
            right, counted = _count(logits, target)
            self._right, self._counted = self._right + int(right), self._counted + int(counted)
        self._spans = spans(self._spans, self._taus)
        self._parts, self._answers, self._taus, self._held = [], [], [], 0

    def _first_bad(self, values: dict[str, Tensor]) -> tuple[int, list[str]] | None:
        wrong = {name: (~torch.isfinite(each)).nonzero() for name, each in values.items()}
        places = {name: int(where[0]) for name, where in wrong.items() if len(where)}
        if not places:
            return None
        first = min(places.values())
        return self._seen + first, [name for name, place in places.items() if place == first]


@torch.no_grad()
def measure(
    network: torch.nn.Module, batches: Iterable[Any], task: Task, to_device: Callable[[Any], Any],
    everyone: Callable[[Any], list[Any]] = lambda share: [share],
) -> dict[str, float]:  # fmt: skip
    """Accuracy and NLL of ``network`` on ``batches``; empty where no row has a label. The mode is put back.

    Where several processes have each some of the batches, ``everyone`` gives what each of them counted. A batch is
    counted as a whole and in float64, and the sum is exact, so it is the same however the batches are dealt out.
    """
    counted: list[tuple[int, int, float]] = []
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        for item in batches:
            if isinstance(item, _Spare):
                task.outputs(network, to_device(item.batch))
                continue
            batch = to_device(item)
            rows, target = task.outputs(network, batch).logits, task.target(batch)
            if rows is None or target is None:
                continue
            hard = likeliest(target)
            good, many = _count(rows, hard)
            costs = torch.nn.functional.cross_entropy(rows.float(), hard, ignore_index=-100, reduction="none")
            counted.append((int(good), int(many), float(costs.cpu().double().sum())))
    finally:
        for module, mode in modes.items():
            module.training = mode
    whole = [one for share in everyone(counted) for one in share]
    labelled = sum(many for _, many, _ in whole)
    if not labelled:
        return {}
    right, nll = sum(good for good, _, _ in whole), math.fsum(cost for _, _, cost in whole)
    return {"validation_top1": right / labelled, "validation_nll": nll / labelled}


def in_step(batches: Iterable[Any], spare: Callable[[], Any], everyone: Callable[[Any], list[Any]]) -> Iterator[Any]:
    """``batches``, and then some that :func:`measure` does not count, until no process has any left.

    A network in shares answers in all processes or in none. ``spare`` gives a batch where this process has none at all.
    """
    own, last = iter(batches), None
    while any(everyone((batch := next(own, None)) is not None)):
        last = batch if batch is not None else spare() if last is None else last
        yield _Spare(last) if batch is None else batch


class _Spare(NamedTuple):
    """A batch that is shown for company only."""

    batch: Any


def _count(logits: Tensor, hard: Tensor) -> tuple[Tensor, Tensor]:
    """How many rows are right, and how many have a label, of class numbers ``hard``."""
    return (logits.argmax(dim=1) == hard).sum(), (hard >= 0).sum()
