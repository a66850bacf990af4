"""The processes of a run: rank, collective calls, and failures that end all processes.

``torchrun`` (or Ray, or a batch system) starts the processes and sets the environment variables RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Without them there is one process, and every call here is the identity.
"""

from __future__ import annotations

import atexit
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, final

import torch
import torch.distributed as dist

from limbeck.core.errors import LimbeckError, StoppedBySignal

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = [
    "MaxReducer", "Processes", "RemoteProcessError", "all_gather_object", "get_launched_world_size",
    "init_process_group", "init_processes", "raise_on_all_ranks",
]  # fmt: skip

P = ParamSpec("P")
T = TypeVar("T")
Failure = tuple[str, int]
"""Message and exit status of a failed process."""

_STEP_TIMEOUT: Final = timedelta(minutes=30)  # for collective calls of a training
_RANK_ZERO_TIMEOUT: Final = timedelta(days=2)  # while rank 0 measures, exports and reports
_RENDEZVOUS_VARIABLES: Final = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_CONNECTION_ERRORS: Final = (
    "Connection closed by peer", "Connection reset", "Broken pipe", "Timed out", "gloo", "NCCL",
)  # fmt: skip


@final
class RemoteProcessError(LimbeckError):
    """Another process of this run failed and reports it; this process ends with the same status."""

    reported = True

    def __init__(self, rank: int, message: str, status: int) -> None:
        self.signal = status - 128
        super().__init__(f"process {rank} of this run ended: {message}")


@final
@dataclass(frozen=True, slots=True)
class Processes:
    """Rank of a process among those of its run.

    Attributes:
        rank: index of the process; rank 0 writes files and messages.
        world_size: number of processes.
        group: process group with a long timeout, in which processes wait for rank 0.
    """

    rank: int = 0
    world_size: int = 1
    group: Any = None

    def run_on_rank_zero(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn`` in rank 0 only, while the other processes wait.

        Returns:
            The result (plain data), the same in every process.

        Raises:
            RemoteProcessError: in the other processes, if ``fn`` fails in rank 0, which raises the error itself.
        """
        if self.world_size == 1:
            return fn(*args, **kwargs)
        payload: list[tuple[Any, Failure | None]] = [(None, None)]
        error: BaseException | None = None
        if self.rank == 0:
            try:
                payload[0] = (fn(*args, **kwargs), None)
                pickle.dumps(payload[0])
            except BaseException as raised:
                error = raised
                payload[0] = (None, _describe_failure(raised))
        dist.broadcast_object_list(payload, 0, group=self.group)
        value, failure = payload[0]
        if error is not None:
            raise error
        if failure is not None:
            raise RemoteProcessError(0, *failure)
        return value  # type: ignore[no-any-return]

    def run_on_all_ranks(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn``, which must not wait for other processes, in every process.

        Raises:
            RemoteProcessError: if ``fn`` fails in another process; the lowest failing rank raises the error itself.
        """
        if self.world_size == 1:
            return fn(*args, **kwargs)
        value: T | None = None
        error: BaseException | None = None
        try:
            value = fn(*args, **kwargs)
        except BaseException as raised:
            error = raised
        _raise_first(error, self.rank, self.all_gather_object(None if error is None else _describe_failure(error)))
        return value  # type: ignore[return-value]

    def all_gather_object(self, value: T) -> list[T]:
        """Gather ``value`` (plain data) of every process, ordered by rank."""
        return _all_gather(value, self.world_size, self.group)

    @contextmanager
    def distributed_errors(self) -> Iterator[None]:
        """Replace errors of ``torch.distributed``, such as a lost connection, by a :class:`LimbeckError`."""
        try:
            yield
        except RuntimeError as error:
            text = str(error)
            if "not used in producing loss" in text:
                raise LimbeckError(
                    "parts of the student have no share in the loss, and DDP waits for their gradients: freeze them "
                    "(freeze: in a stage), or train in one process"
                ) from error
            if self.world_size == 1 or not (
                isinstance(error, dist.DistError) or any(word in text for word in _CONNECTION_ERRORS)
            ):
                raise
            raise LimbeckError(
                f"process {self.rank} of {self.world_size} lost the others: one of them ended or is unreachable; see "
                "its message for the cause, and go on with --resume after fixing it"
            ) from error


def init_processes() -> Processes:
    """Connect this process to the others of the run, if there are any."""
    if get_launched_world_size() == 1:
        return Processes()
    init_process_group()
    return Processes(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=_RANK_ZERO_TIMEOUT))


def init_process_group() -> None:
    """Connect the processes, unless they are connected already."""
    if dist.is_initialized():
        return
    missing = [name for name in _RENDEZVOUS_VARIABLES if name not in os.environ]
    if missing:
        raise LimbeckError(
            f"WORLD_SIZE is {get_launched_world_size()}, and {', '.join(missing)} is not set: start the processes with "
            "torchrun, which sets them all, or unset WORLD_SIZE"
        )
    with Processes(int(os.environ["RANK"]), get_launched_world_size()).distributed_errors():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_STEP_TIMEOUT)
    atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)


def get_launched_world_size() -> int:
    """Number of processes that ``torchrun`` has started, connected or not."""
    initialized = dist.is_available() and dist.is_initialized()
    if initialized:
        return dist.get_world_size()
    text = os.environ.get("WORLD_SIZE") or "1"
    if not (text.isascii() and text.isdigit()):
        raise LimbeckError(
            f"the environment variable WORLD_SIZE must be a number of processes, got {text!r}: start them with "
            "torchrun, which sets it, or unset it"
        )
    return max(1, int(text))


@final
class MaxReducer:
    """Maximum of each number over all processes, for flags that one process may set.

    Every process calls it in every step. Waiting for the result would take as long as a step of a small network, so
    :meth:`reduce_async` returns the result of the previous call, which arrived during the step.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._is_distributed = fabric.world_size > 1
        # On the CPU with gloo, since reading a result from the GPU would synchronize in every step.
        uses_gloo = self._is_distributed and "gloo" in str(dist.get_backend_config())
        self._device = torch.device("cpu") if uses_gloo else fabric.device
        self._pending: tuple[Any, torch.Tensor] | None = None

    def reduce(self, *numbers: int) -> list[int]:
        """The maximum over this call and the previous one."""
        previous = self.reduce_async(*numbers)
        if not self._is_distributed:
            return previous
        return [max(pair) for pair in zip(previous, self._wait(len(numbers)), strict=True)]

    def reduce_async(self, *numbers: int) -> list[int]:
        """The maximum of the previous call, at first zeros; with a single process, ``numbers``."""
        if not self._is_distributed:
            return list(numbers)
        previous = self._wait(len(numbers))
        tensor = torch.tensor(numbers, dtype=torch.int64, device=self._device)
        self._pending = dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True), tensor
        return previous

    def _wait(self, count: int) -> list[int]:
        if self._pending is None:
            return [0] * count
        (work, maximum), self._pending = self._pending, None
        work.wait()
        return [int(number) for number in maximum.tolist()]


def all_gather_object(fabric: Fabric, value: T) -> list[T]:
    """Gather ``value`` (plain data or tensors) of every process, ordered by rank."""
    return _all_gather(value, fabric.world_size)


def raise_on_all_ranks(fabric: Fabric, error: LimbeckError | None) -> None:
    """Raise in all processes if any has an ``error``.

    The process with the earliest ``error.step``, among these of the lowest rank, raises its error; the others raise
    :class:`RemoteProcessError`.
    """
    step = None if error is None else getattr(error, "step", 0)
    steps = [other for other in all_gather_object(fabric, step) if other is not None]
    if not steps:
        return
    is_first = error is not None and step == min(steps)
    failures = all_gather_object(fabric, _describe_failure(error) if error is not None and is_first else None)
    _raise_first(error, fabric.global_rank, failures)


def _raise_first(error: BaseException | None, rank: int, failures: list[Failure | None]) -> None:
    """Raise the failure of the lowest rank: ``error`` in that process, a report of it in the others."""
    for failed_rank, failure in enumerate(failures):
        if failure is not None:
            raise error if error is not None and failed_rank == rank else RemoteProcessError(failed_rank, *failure)


def _all_gather(value: T, world_size: int, group: Any = None) -> list[T]:
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value, group=group)
    return values


def _describe_failure(error: BaseException) -> Failure:
    if isinstance(error, KeyboardInterrupt):
        return "stopped by SIGINT", 130
    if isinstance(error, LimbeckError | StoppedBySignal):
        return str(error), 128 + int(getattr(error, "signal", -126))
    return f"{type(error).__name__}: {error}", 1
