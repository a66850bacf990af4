"""One tensor out of every process's share: for a loss that relates samples when a batch is spread over processes.

Works on any backend of ``torch.distributed`` (gloo, NCCL), for any dtype, and for shares of different length. With one
process everything here is the identity.
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
    """How many processes stand together here: 1 without ``torch.distributed``, and within :func:`single_process`."""
    is_distributed = dist.is_available() and dist.is_initialized() and not _single_process.get()
    return dist.get_world_size() if is_distributed else 1


def get_rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if get_world_size() > 1 else 0


@contextmanager
def single_process() -> Iterator[None]:
    """Within, a process stands alone: for a rehearsal, which may fail in one and must not wait for the others."""
    token = _single_process.set(True)
    try:
        yield
    finally:
        _single_process.reset(token)


def gather_sizes(sizes: Sequence[int], *, device: torch.device | None = None) -> list[list[int]]:
    """``sizes`` of every process, in the order of the processes; each gives equally many.

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
    """The ``tensor`` ``[own, ...]`` of every process, one after the other: ``[all, ...]``, the same on each.

    Arguments:
        tensor: of the same shape everywhere but for the first axis.
        sizes: how long the first axis is in each process, where that is known; ``None`` asks.

    The gradient is that of the sum of all processes' losses: what reaches this process's share is what every process
    asks of it, added up (in float32 at least). So where ``W`` processes compute one and the same loss from the whole,
    the share gets ``W`` times its gradient, and the average over processes that DDP takes makes it once.

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
    """All-gather, and its adjoint: the sum over processes, of which each keeps its own rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.sizes = sizes
        return _all_gather_padded(tensor, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        wide = torch.promote_types(gradient.dtype, torch.float32)
        total = gradient.to(wide).clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        rank = dist.get_rank()
        offset = [0, *accumulate(ctx.sizes)][rank]
        return total[offset : offset + ctx.sizes[rank]].to(gradient.dtype), None


def _all_gather_padded(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sent as bytes, since backends differ in the dtypes they know; shorter shares are filled up for the way."""
    trailing_shape = tensor.shape[1:]
    row_bytes = trailing_shape.numel() * tensor.element_size()
    buffer = torch.zeros(max(sizes) * row_bytes, dtype=torch.uint8, device=tensor.device)
    buffer[: len(tensor) * row_bytes] = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    buffers = [torch.empty_like(buffer) for _ in sizes]
    dist.all_gather(buffers, buffer)
    chunks = [chunk[: size * row_bytes] for chunk, size in zip(buffers, sizes, strict=True)]
    return torch.cat(chunks).view(tensor.dtype).reshape(sum(sizes), *trailing_shape)
