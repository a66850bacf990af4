"""Cost of a network: parameters, FLOPs, file size, memory and latency.

FLOPs are those of ``torch.utils.flop_counter`` (https://docs.pytorch.org/docs/stable) on the meta device, since on the
CPU it misses fused scaled-dot-product attention. One multiply–add is 2 FLOPs. Convolutions, matrix products and
attention count, elementwise operations (norms, activations) do not.
"""

from __future__ import annotations

import copy
import tempfile
import weakref
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.checks import model_device
from limbeck.features import unwrap_model
from limbeck.utils.eval_mode import eval_mode
from limbeck.utils.timing import measure_latency

__all__ = ["count_flops", "count_parameters", "measure_cost", "measure_peak_memory", "weights_file_size"]


def count_parameters(model: nn.Module) -> int:
    """Number of parameters; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, example: Tensor) -> tuple[int | None, str | None]:
    """FLOPs of a forward pass of the first sample of ``example`` (``[n, ...]``) in eval mode.

    Returns:
        The count and ``None``; or ``None`` and a warning where the model does not run on the meta device, since it
        depends on values or holds tensors outside its parameters and buffers.

    >>> count_flops(nn.Linear(3, 2), torch.zeros(1, 3))
    (12, None)
    """
    from torch.utils.flop_counter import FlopCounterMode

    sample = _first_sample(example)
    try:
        meta_model = copy.deepcopy(unwrap_model(model)).to("meta").eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            meta_model(sample.to("meta"))
    except Exception as error:  # the user's model can raise anything
        first_line = next(iter(str(error).splitlines()), "")
        return None, (
            f"the FLOPs of {type(model).__name__} are unknown, since it does not run on the meta device "
            f"({type(error).__name__}: {first_line[:160]})"
        )
    return int(counter.get_total_flops()), None


def weights_file_size(model: nn.Module) -> int:
    """Bytes of the ``.safetensors`` file of the model's parameters and buffers, with its header."""
    from limbeck.models import save_weights

    with tempfile.TemporaryDirectory() as folder:
        return save_weights(model, Path(folder) / "weights.safetensors").stat().st_size


def measure_peak_memory(model: nn.Module, example: Tensor) -> int:
    """Bytes of parameters, buffers, one sample, and the tensors alive at the peak of its forward pass.

    Runs the first sample of ``example``. Counts tensor storages, so it is the same on every machine; workspaces of
    kernels and torch itself do not count.

    >>> measure_peak_memory(nn.Linear(10, 5), torch.zeros(1, 10))
    280
    """
    sample = example[:1].detach().clone().to(model_device(model))  # a view would keep the whole batch alive
    storages = {tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers(), sample)}
    tracker = _AllocationTracker(storages)
    with eval_mode(model), tracker:
        model(sample)
    return sum(storage.nbytes() for storage in storages) + tracker.peak_bytes


def measure_cost(model: nn.Module, example: Tensor) -> dict[str, Any]:
    """Cost metrics of one network for the record, and ``warnings`` about missing ones.

    The latency is that of eager torch on the CPU with one thread, for the first sample of ``example`` (``[n, ...]``).

    >>> cost = measure_cost(nn.Linear(3, 2), torch.zeros(1, 3))
    >>> cost["parameters"], cost["flops"], cost["latency_ms"]["batch_size"], cost["warnings"]
    (8, 12, 1, [])
    """
    flops, warning = count_flops(model, example)
    on_cpu = all(tensor.is_cpu for tensor in (*model.parameters(), *model.buffers()))
    cpu_model = model if on_cpu else copy.deepcopy(model).cpu()
    sample = _first_sample(example).cpu()
    with eval_mode(cpu_model):
        latency = measure_latency(lambda: cpu_model(sample))
    return {
        "parameters": count_parameters(model),
        "flops": flops,
        "bytes": weights_file_size(model),
        "latency_ms": latency,
        "warnings": [warning] if warning else [],
    }


@final
class _AllocationTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations allocate, and subtracts those that are freed."""

    def __init__(self, storages: set[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current_bytes = self.peak_bytes = 0
        self._tracked = weakref.WeakSet[Any](storages)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._tracked:
                self._tracked.add(storage)
                self.current_bytes += storage.nbytes()
                self.peak_bytes = max(self.peak_bytes, self.current_bytes)
                weakref.finalize(storage, self._release, storage.nbytes())
        return result

    def _release(self, num_bytes: int) -> None:
        self.current_bytes -= num_bytes


def _first_sample(example: Tensor) -> Tensor:
    if not example.ndim or not len(example):
        raise LimbeckError(f"an example must be a batch [n, ...] of at least one input, got {list(example.shape)}")
    return example[:1].detach()
