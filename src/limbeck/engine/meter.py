"""Running means of what a training says of itself, kept on the device until somebody asks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.numeric import likeliest
from limbeck.core.protocols import Task
from limbeck.objective.objective import Loss

__all__ = ["Meter", "measure"]

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
        self._weights: dict[str, float] = {}
        self._right = self._counted = 0
        self._parts: list[dict[str, Tensor]] = []
        self._answers: list[tuple[Tensor, Tensor]] = []
        self._held = 0

    def add(self, loss: Loss) -> None:
        """Take in one batch."""
        self._batches += 1
        self._weights = loss.weights
        self._parts.append(loss.parts)
        if loss.logits is not None:
            self.samples += len(loss.logits)
            if loss.target is not None:
                self._answers.append((loss.logits, loss.target))
                self._held += loss.logits.numel()
        if self._held > _MOST_HELD or len(self._parts) > _MOST_HELD // 1024:
            self._count()

    def means(self) -> dict[str, float]:
        """``loss``, ``loss/<term>``, ``weight/<term>`` (the newest), and ``train_accuracy`` where it is known."""
        self._count()
        parts = {name: value / self._batches for name, value in self._sums.items()}
        means = {"loss": sum(parts.values())}
        if self._counted:
            means["train_accuracy"] = self._right / self._counted
        means |= {f"loss/{name}": value for name, value in parts.items()}
        return means | {f"weight/{name}": value for name, value in self._weights.items()}

    def bad(self) -> tuple[int, list[str]] | None:
        """The first batch ever taken in whose loss was not finite, counted from 0, with the terms that were not.

        Looking at each loss as it comes would make the device wait at every step.
        """
        self._count()
        return self._bad

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
        self._parts, self._answers, self._held = [], [], 0

    def _first_bad(self, values: dict[str, Tensor]) -> tuple[int, list[str]] | None:
        wrong = {name: (~torch.isfinite(each)).nonzero() for name, each in values.items()}
        places = {name: int(where[0]) for name, where in wrong.items() if len(where)}
        if not places:
            return None
        first = min(places.values())
        return self._seen + first, [name for name, place in places.items() if place == first]


@torch.no_grad()
def measure(
    network: torch.nn.Module, batches: Iterable[Any], task: Task, to_device: Callable[[Any], Any]
) -> dict[str, float]:
    """Accuracy and NLL of ``network`` on ``batches``; empty where no row has a label. The mode is put back."""
    right = counted = 0
    nll = 0.0
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        for item in batches:
            batch = to_device(item)
            rows, target = task.outputs(network, batch).logits, task.target(batch)
            if rows is None or target is None:
                continue
            hard = likeliest(target)
            good, many = _count(rows, hard)
            right, counted = right + int(good), counted + int(many)
            nll += float(torch.nn.functional.cross_entropy(rows.float(), hard, ignore_index=-100, reduction="sum"))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return {"validation_top1": right / counted, "validation_nll": nll / counted} if counted else {}


def _count(logits: Tensor, hard: Tensor) -> tuple[Tensor, Tensor]:
    """How many rows are right, and how many have a label, of class numbers ``hard``."""
    return (logits.argmax(dim=1) == hard).sum(), (hard >= 0).sum()
