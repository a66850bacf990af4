"""Cost of a network: parameters, FLOPs, file size, memory and latency.

FLOPs are those of ``torch.utils.flop_counter`` (https://docs.pytorch.org/docs/stable) on the meta device, since on the
CPU it misses fused scaled-dot-product attention. One multiply–add is 2 FLOPs. Convolutions, matrix products and
attention count, elementwise operations (norms, activations) do not.
"""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from limbeck.core.errors import LimbeckError
from limbeck.core.task import ModelInputs
from limbeck.evaluation.checks import model_device
from limbeck.features import unwrap_model
from limbeck.teachers.identity import fingerprint_network, network_signature
from limbeck.utils.eval_mode import eval_mode
from limbeck.utils.parametrizations import copy_module
from limbeck.utils.timing import measure_latencies

__all__ = [
    "count_flops", "count_parameters", "hash_structure", "measure_cost", "measure_latencies_by_structure",
    "measure_peak_memory", "weights_file_size",
]  # fmt: skip


def count_parameters(model: nn.Module) -> int:
    """Number of parameters; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, example: Tensor | ModelInputs) -> tuple[int | None, str | None]:
    """FLOPs of a forward pass of the first sample of ``example`` in eval mode.

    They are counted on the meta device. Where the model does not run there, since it depends on values or holds tensors
    outside its parameters and buffers, they are counted on its own device, with attention in its plain form.

    Args:
        model: the network.
        example: a batch ``[n, ...]``, or the ``model_inputs`` of a task.

    Returns:
        The count and ``None``; or ``None`` and a warning where the model runs on neither.

    >>> count_flops(nn.Linear(3, 2), torch.zeros(1, 3))
    (12, None)
    """
    from torch.utils.flop_counter import FlopCounterMode

    sample = _first_sample(example)
    try:
        meta_model = copy_module(unwrap_model(model)).to("meta").eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            _call(meta_model, _map_tensors(sample, lambda tensor: tensor.to("meta")))
        return int(counter.get_total_flops()), None
    except Exception:  # noqa: S110  the user's model can raise anything; its own device is tried below
        pass
    try:
        device = model_device(model)
        math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
        with eval_mode(model), torch.no_grad(), math, FlopCounterMode(display=False) as counter:
            _call(unwrap_model(model), _map_tensors(sample, lambda tensor: tensor.to(device)))
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), "")
        return None, (
            f"the FLOPs of {type(model).__name__} are unknown, since it does not run on its first sample "
            f"({type(error).__name__}: {first_line[:160]})"
        )
    return int(counter.get_total_flops()), None


def weights_file_size(model: nn.Module) -> int:
    """Bytes of the ``.safetensors`` file of the model's parameters and buffers, with its header."""
    from limbeck.models import save_weights

    with tempfile.TemporaryDirectory() as folder:
        return save_weights(model, Path(folder) / "weights.safetensors").stat().st_size


def measure_peak_memory(model: nn.Module, example: Tensor | ModelInputs) -> int:
    """Bytes of parameters, buffers, one sample, and the tensors alive at the peak of its forward pass.

    Runs the first sample of ``example``. Counts tensor storages, so it is the same on every machine; workspaces of
    kernels and torch itself do not count.

    >>> measure_peak_memory(nn.Linear(10, 5), torch.zeros(1, 10))
    280
    """
    device = model_device(model)
    # A view would keep the whole batch alive.
    sample = _map_tensors(_first_sample(example), lambda tensor: tensor.clone().to(device))
    inputs = [leaf for leaf in tree_leaves(tuple(sample)) if isinstance(leaf, Tensor)]
    storages = {tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers(), *inputs)}
    tracker = _AllocationTracker(storages)
    with eval_mode(model), tracker:
        _call(model, sample)
    return sum(storage.nbytes() for storage in storages) + tracker.peak_bytes


def hash_structure(model: nn.Module) -> str:
    """A hash of everything but the values of the weights: code, settings, hooks, shapes and types.

    A module without parameters, such as an external teacher, has the hash of all that it is.

    >>> [hash_structure(nn.Linear(*shape)) == hash_structure(nn.Linear(2, 2)) for shape in ((2, 2), (2, 3))]
    [True, False]
    """
    if not any(True for _ in model.parameters()):
        return fingerprint_network(model, {})[:16]
    shapes = [
        (name, str(value.dtype), tuple(value.shape))
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor)
    ]
    return hashlib.sha256(f"{network_signature(model)} {shapes}".encode()).hexdigest()[:16]


def measure_latencies_by_structure(
    models: Mapping[str, nn.Module], example: Tensor | ModelInputs, *, known: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, dict[str, Any]]:
    """Latencies by name, in eager torch on the CPU with one thread, of the first sample of ``example``.

    Networks of equal structure are measured once and have the same latency. Different ones are measured in turns, so
    that a busy moment affects all of them.

    Args:
        models: by name.
        example: a batch ``[n, ...]``, or the ``model_inputs`` of a task.
        known: latencies measured before, by :func:`hash_structure`.

    >>> result = measure_latencies_by_structure({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}, torch.zeros(1, 2))
    >>> result["a"] == result["b"]
    True
    """
    structures = {name: hash_structure(model) for name, model in models.items()}
    sample, calls = _map_tensors(_first_sample(example), Tensor.cpu), dict[str, Callable[[], Any]]()
    with ExitStack() as exit_stack:
        for name, structure in structures.items():
            if structure not in known and structure not in calls:
                model = models[name]
                on_cpu = all(tensor.is_cpu for tensor in (*model.parameters(), *model.buffers()))
                cpu_model = model if on_cpu else copy_module(model).cpu()
                exit_stack.enter_context(eval_mode(cpu_model))
                calls[structure] = partial(_call, cpu_model, sample)
        latencies = {**known, **measure_latencies(calls, max_seconds=5.0)}
    return {name: latencies[structure] for name, structure in structures.items()}


def measure_cost(
    model: nn.Module, example: Tensor | ModelInputs, *, latency: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Cost metrics of one network for the record, and ``warnings`` about missing ones.

    The latency is that of :func:`measure_latencies_by_structure`; ``None`` measures it here.

    >>> cost = measure_cost(nn.Linear(3, 2), torch.zeros(1, 3))
    >>> cost["parameters"], cost["flops"], cost["latency_ms"]["batch_size"], cost["warnings"]
    (8, 12, 1, [])
    """
    flops, warning = count_flops(model, example)
    return {
        "architecture": hash_structure(model),
        "parameters": count_parameters(model),
        "flops": flops,
        "bytes": weights_file_size(model),
        "latency_ms": latency or measure_latencies_by_structure({"": model}, example)[""],
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


def _first_sample(example: Tensor | ModelInputs) -> ModelInputs:
    def cut(tensor: Tensor) -> Tensor:
        if not tensor.ndim or not len(tensor):
            raise LimbeckError(f"an example must be a batch [n, ...] of at least one input, got {list(tensor.shape)}")
        return tensor[:1].detach()

    return _map_tensors(ModelInputs((example,)) if isinstance(example, Tensor) else example, cut)


def _map_tensors(inputs: ModelInputs, fn: Callable[[Tensor], Tensor]) -> ModelInputs:
    args, kwargs = tree_map(
        lambda leaf: fn(leaf) if isinstance(leaf, Tensor) else leaf, (tuple(inputs.args), dict(inputs.kwargs))
    )
    return ModelInputs(args, kwargs)


def _call(model: nn.Module, inputs: ModelInputs) -> Any:
    return model(*inputs.args, **inputs.kwargs)
