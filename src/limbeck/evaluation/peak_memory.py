"""How much memory one answer takes: the weights, and the most that is alive at once while the network runs."""

from __future__ import annotations

import weakref
from typing import Any, final

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limbeck.evaluation.checks import evaluation_mode

__all__ = ["measure_peak_memory"]


def measure_peak_memory(model: nn.Module, example: Tensor) -> int:
    """Bytes of weights and buffers, of the first sample of ``example``, and of all tensors alive at the worst moment.

    Counted, and so the same on every machine and run: what torch allocates for tensors while ``model`` answers one
    sample in eval mode without gradients. What a kernel needs for itself while it runs, and torch itself (hundreds of
    megabytes), is not counted.

    >>> import torch
    >>> measure_peak_memory(nn.Linear(10, 5), torch.zeros(1, 10))
    280
    """
    sample = example[:1].detach().clone()  # a slice would hold the whole batch
    first_parameter = next(iter(model.parameters()), None)
    sample = sample if first_parameter is None else sample.to(first_parameter.device)
    model_storages = {tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers(), sample)}
    tracker = _AllocationTracker(model_storages)
    with evaluation_mode(model), tracker:
        model(sample)
    return sum(storage.nbytes() for storage in model_storages) + tracker.peak_bytes


@final
class _AllocationTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, and takes off those that are freed."""

    def __init__(self, known_storages: set[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current_bytes = self.peak_bytes = 0
        self._tracked = weakref.WeakSet[Any](known_storages)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._track(tensor.untyped_storage())
        return result

    def _track(self, storage: Any) -> None:
        if storage in self._tracked:
            return
        self._tracked.add(storage)
        self.current_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)
        weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, size: int) -> None:
        self.current_bytes -= size
