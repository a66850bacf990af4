"""Running means of what a training says of itself, kept on the device until somebody asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.protocols import Task
from limbeck.objective.objective import Loss

__all__ = ["Meter", "measure"]


@final
class Meter:
    """Means over the batches since the last :meth:`reset`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin again."""
        self._batches, self.samples, self.since = 0, 0, time.monotonic()
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}
        self._right: Tensor | None = None
        self._counted: Tensor | None = None

    def add(self, loss: Loss) -> None:
        """Take in one batch."""
        self._batches += 1
        self._weights = loss.weights
        for name, part in loss.parts.items():
            self._sums[name] = self._sums[name] + part if name in self._sums else part
        if loss.logits is not None:
            self.samples += len(loss.logits)
            if loss.target is not None:
                right, counted = _count(loss.logits, loss.target)
                self._right = right if self._right is None else self._right + right
                self._counted = counted if self._counted is None else self._counted + counted

    def means(self) -> dict[str, float]:
        """``loss``, ``loss/<term>``, ``weight/<term>`` (the newest), and ``train_accuracy`` where it is known."""
        parts = {name: float(value) / self._batches for name, value in self._sums.items()}
        means = {"loss": sum(parts.values())}
        if self._right is not None and self._counted is not None and int(self._counted):
            means["train_accuracy"] = int(self._right) / int(self._counted)
        means |= {f"loss/{name}": value for name, value in parts.items()}
        return means | {f"weight/{name}": value for name, value in self._weights.items()}


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
            good, many = _count(rows, target)
            right, counted = right + int(good), counted + int(many)
            hard = target if target.ndim == 1 else target.argmax(dim=1)
            nll += float(torch.nn.functional.cross_entropy(rows.float(), hard, ignore_index=-100, reduction="sum"))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return {"validation_top1": right / counted, "validation_nll": nll / counted} if counted else {}


def _count(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """How many rows are right, and how many have a label."""
    hard = target if target.ndim == 1 else target.argmax(dim=1)
    return (logits.argmax(dim=1) == hard).sum(), (hard >= 0).sum()
