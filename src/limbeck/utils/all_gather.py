"""All-gather with a gradient, for losses that relate samples of a batch that is spread over processes.

Works on any backend of ``torch.distributed`` (gloo, NCCL), for any dtype, and for tensors of different length. In one
process every function is the identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["all_gather", "gather_sizes", "get_rank", "get_world_size", "single_process"]

_single_process = ContextVar("_single_process", default=False)


def get_world_size() -> int:
    """Number of processes: 1 without ``torch.distributed``, and within :func:`single_process`."""
    is_distributed = dist.is_available() and dist.is_initialized() and not _single_process.get()
    return dist.get_world_size() if is_distributed else 1


def get_rank() -> int:
    """Rank of this process among them, from 0."""
    return dist.get_rank() if get_world_size() > 1 else 0


@contextmanager
def single_process() -> Iterator[None]:
    """Runs a block as in one process, for a trial run that may fail in one process and must not block the others."""
    token = _single_process.set(True)
    try:
        yield
    finally:
        _single_process.reset(token)


def gather_sizes(sizes: Sequence[int], *, device: torch.device | None = None) -> list[list[int]]:
    """``sizes``, equally many in each process, of every process in the order of the ranks.

    >>> gather_sizes([3, 1])
    [[3, 1]]
    """
    if get_world_size() == 1:
        return [list(sizes)]
    local_sizes = torch.tensor(list(sizes), dtype=torch.int64, device=device)
    gathered = [torch.empty_like(local_sizes) for _ in range(get_world_size())]
    dist.all_gather(gathered, local_sizes)
    return [tensor.tolist() for tensor in gathered]


def all_gather(tensor: Tensor, *, sizes: Sequence[int] | None = None) -> Tensor:
    """``tensor`` of every process, concatenated along the first dimension, the same in each process.

    The gradient is that of the sum of all processes' losses: the sum over processes (in float32 at least) of the
    gradient of this process's rows. So where ``W`` processes compute one loss of the gathered rows, these rows get
    ``W`` times its gradient, and DDP's average over processes makes it once.

    Args:
        tensor: of the same shape in each process except for the first dimension.
        sizes: length of the first dimension in each process; ``None``: gathered.

    >>> all_gather(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    if get_world_size() == 1:
        return tensor
    if sizes is None:
        sizes = [size for (size,) in gather_sizes([len(tensor)], device=tensor.device)]
    gathered: Tensor = _AllGather.apply(tensor, tuple(sizes))
    return gathered


class _AllGather(torch.autograd.Function):
    """All-gather, and its adjoint: the sum over processes, of which each takes its own rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.sizes = sizes
        # Sent as bytes, since backends differ in the dtypes they support; shorter tensors are padded.
        trailing_shape = tensor.shape[1:]
        row_bytes = trailing_shape.numel() * tensor.element_size()
        buffer = torch.zeros(max(sizes) * row_bytes, dtype=torch.uint8, device=tensor.device)
        buffer[: len(tensor) * row_bytes] = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        buffers = [torch.empty_like(buffer) for _ in sizes]
        dist.all_gather(buffers, buffer)
        chunks = [chunk[: size * row_bytes] for chunk, size in zip(buffers, sizes, strict=True)]
        return torch.cat(chunks).view(tensor.dtype).reshape(sum(sizes), *trailing_shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        wide = torch.promote_types(gradient.dtype, torch.float32)
        total = gradient.to(wide).clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        rank = dist.get_rank()
        offset = [0, *accumulate(ctx.sizes)][rank]
        return total[offset : offset + ctx.sizes[rank]].to(gradient.dtype), None
