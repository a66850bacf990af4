"""How much memory one answer takes: the weights, and the most that is alive at once while the network runs."""

from __future__ import annotations

import weakref
from typing import Any, final

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limbeck.evaluation.checks import evaluating

__all__ = ["peak_memory"]


def peak_memory(model: nn.Module, example: Tensor) -> int:
    """Bytes of weights and buffers, of the first sample of ``example``, and of all tensors alive at the worst moment.

    Counted, and so the same on every machine and run: what torch allocates for tensors while ``model`` answers one
    sample in eval mode without gradients. What a kernel needs for itself while it runs, and torch itself (hundreds of
    megabytes), is not counted.

    >>> import torch
    >>> peak_memory(nn.Linear(10, 5), torch.zeros(1, 10))
    280
    """
    one = example[:1].detach().clone()  # a slice would hold the whole batch
    held = next(iter(model.parameters()), None)
    one = one if held is None else one.to(held.device)
    own = {tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers(), one)}
    alive = _Alive(own)
    with evaluating(model), alive:
        model(one)
    return sum(storage.nbytes() for storage in own) + alive.most


@final
class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, and takes off those that are freed."""

    def __init__(self, own: set[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._seen = weakref.WeakSet[Any](own)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: Any) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.now -= size
