"""What a network costs: parameters, FLOPs, bytes, and the time of one answer.

FLOPs are those of ``torch.utils.flop_counter`` (https://docs.pytorch.org/docs/stable) on the meta device, since on the
CPU it misses fused scaled-dot-product attention. One multiply–add is 2 FLOPs; the batch is 1. Convolutions, matrix
products and attention count, what is done to each element (norms, activations) does not.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.checks import evaluation_mode
from limbeck.features import unwrap_model
from limbeck.utils.timing import time_call

__all__ = ["count_flops", "count_parameters", "measure_cost", "measure_latency", "weights_file_size"]


def count_parameters(model: nn.Module) -> int:
    """How many numbers the model learns; a parameter that several modules share counts once.

    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, example: Tensor) -> tuple[int | None, str | None]:
    """The floating-point operations of one answer to one sample in eval mode, 2 for each multiply–add.

    Args:
        model: any module that takes ``example``; it is copied, and stays as it is.
        example: inputs ``[n, ...]``, of which the first is taken. Values do not matter.

    Returns:
        The count and ``None``; or ``None`` and a sentence on why it could not be counted (a network that looks at
        values, or keeps tensors outside its parameters and buffers, does not run on the meta device).

    >>> count_flops(nn.Linear(3, 2), torch.zeros(1, 3))
    (12, None)
    """
    from torch.utils.flop_counter import FlopCounterMode

    sample = _first_sample(example)
    try:
        meta_model = copy.deepcopy(unwrap_model(model)).to("meta").eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            meta_model(sample.to("meta"))
    except Exception as error:  # a model's own code runs, and can raise anything
        first_line = next(iter(str(error).splitlines()), "")
        return None, (
            f"the FLOPs of {type(model).__name__} are not known, since it does not run on the meta device "
            f"({type(error).__name__}: {first_line[:160]})"
        )
    return int(counter.get_total_flops()), None


def measure_latency(
    fn: Callable[[], object], *, warmup: int = 20, repeats: int = 200, num_threads: int = 1, batch_size: int = 1,
    max_seconds: float = 5.0,
) -> dict[str, Any]:  # fmt: skip
    """How long ``fn`` takes, in milliseconds of wall-clock time.

    Args:
        fn: what is timed; on an accelerator it has to wait for its own result.
        warmup: calls that are not timed; at least one, and no more than fit in a fifth of ``max_seconds``.
        repeats: calls that are timed; at least one, and no more than fit in ``max_seconds``.
        num_threads: torch threads while it is measured; put back after, also when ``fn`` raises.
        batch_size: samples in one call, which is only told again.
        max_seconds: seconds, after which a slow call is not begun again.

    Returns:
        ``median`` and ``p95`` (nearest rank) in ms, ``batch_size``, ``num_threads``, and ``num_repeats``: how many there were.

    >>> sorted(measure_latency(lambda: None, repeats=5))
    ['batch_size', 'median', 'num_repeats', 'num_threads', 'p95']
    """
    if repeats < 1 or num_threads < 1 or warmup < 0:
        raise LimbeckError(
            f"latency takes repeats and num_threads from 1, warmup from 0, not {repeats}, {num_threads}, {warmup}"
        )
    previous_threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        timing = time_call(fn, warmup=warmup, repeats=repeats, max_seconds=max_seconds)
    finally:
        torch.set_num_threads(previous_threads)
    return {**timing, "batch_size": batch_size, "num_threads": num_threads}


def weights_file_size(model: nn.Module) -> int:
    """The size of the ``.safetensors`` file that the model's weights and buffers make, in bytes.

    Written to a temporary folder and looked at: shared tensors, types and the header are then what they will be.

    >>> weights_file_size(nn.Linear(100, 10)) - 4 * 1010 < 200
    True
    """
    from limbeck.models import save_weights

    with tempfile.TemporaryDirectory() as folder:
        return save_weights(model, Path(folder) / "weights.safetensors").stat().st_size


def measure_cost(model: nn.Module, example: Tensor) -> dict[str, Any]:
    """Every efficiency figure of one network, as it stands in the record, and ``warnings`` on those that are missing.

    The latency is that of eager torch on the CPU with one thread, for the first sample of ``example`` (``[n, ...]``).
    The model's modes, device and weights stay as they are.

    >>> found = measure_cost(nn.Linear(3, 2), torch.zeros(1, 3))
    >>> found["parameters"], found["flops"], found["latency_ms"]["batch_size"], found["warnings"]
    (8, 12, 1, [])
    """
    count, warning = count_flops(model, example)
    on_cpu = all(tensor.is_cpu for tensor in (*model.parameters(), *model.buffers()))
    cpu_model = model if on_cpu else copy.deepcopy(model).cpu()
    sample = _first_sample(example).cpu()
    with evaluation_mode(cpu_model):
        timing = measure_latency(lambda: cpu_model(sample))
    return {
        "parameters": count_parameters(model),
        "flops": count,
        "bytes": weights_file_size(model),
        "latency_ms": timing,
        "warnings": [warning] if warning else [],
    }


def _first_sample(example: Tensor) -> Tensor:
    if not example.ndim or not len(example):
        raise LimbeckError(f"an example is a batch of at least one input, [n, ...], not {list(example.shape)}")
    return example[:1].detach()
