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

__all__ = ["apart", "counts", "gather", "place", "world"]

_apart = ContextVar("_apart", default=False)


def world() -> int:
    """How many processes stand together here: 1 without ``torch.distributed``, and within :func:`apart`."""
    there = dist.is_available() and dist.is_initialized() and not _apart.get()
    return dist.get_world_size() if there else 1


def place() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if world() > 1 else 0


@contextmanager
def apart() -> Iterator[None]:
    """Within, a process stands alone: for a rehearsal, which may fail in one and must not wait for the others."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def counts(numbers: Sequence[int], *, device: torch.device | None = None) -> list[list[int]]:
    """``numbers`` of every process, in the order of the processes; each gives equally many.

    >>> counts([3, 1])
    [[3, 1]]
    """
    if world() == 1:
        return [list(numbers)]
    own = torch.tensor(list(numbers), dtype=torch.int64, device=device)
    everyone = [torch.empty_like(own) for _ in range(world())]
    dist.all_gather(everyone, own)
    return [one.tolist() for one in everyone]


def gather(tensor: Tensor, *, sizes: Sequence[int] | None = None) -> Tensor:
    """The ``tensor`` ``[own, ...]`` of every process, one after the other: ``[all, ...]``, the same on each.

    Arguments:
        tensor: of the same shape everywhere but for the first axis.
        sizes: how long the first axis is in each process, where that is known; ``None`` asks.

    The gradient is that of the sum of all processes' losses: what reaches this process's share is what every process
    asks of it, added up (in float32 at least). So where ``W`` processes compute one and the same loss from the whole,
    the share gets ``W`` times its gradient, and the average over processes that DDP takes makes it once.

    >>> gather(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    if world() == 1:
        return tensor
    if sizes is None:
        sizes = [size for (size,) in counts([len(tensor)], device=tensor.device)]
    whole: Tensor = _Gather.apply(tensor, tuple(sizes))
    return whole


class _Gather(torch.autograd.Function):
    """All-gather, and its adjoint: the sum over processes, of which each keeps its own rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.sizes = sizes
        return _together(tensor, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        wide = torch.promote_types(gradient.dtype, torch.float32)
        total = gradient.to(wide).clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        rank = dist.get_rank()
        first = [0, *accumulate(ctx.sizes)][rank]
        return total[first : first + ctx.sizes[rank]].to(gradient.dtype), None


def _together(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sent as bytes, since backends differ in the dtypes they know; shorter shares are filled up for the way."""
    rest = tensor.shape[1:]
    width = rest.numel() * tensor.element_size()
    own = torch.zeros(max(sizes) * width, dtype=torch.uint8, device=tensor.device)
    own[: len(tensor) * width] = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    everyone = [torch.empty_like(own) for _ in sizes]
    dist.all_gather(everyone, own)
    shares = [share[: size * width] for share, size in zip(everyone, sizes, strict=True)]
    return torch.cat(shares).view(tensor.dtype).reshape(sum(sizes), *rest)
