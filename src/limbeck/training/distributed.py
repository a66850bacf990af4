"""The processes of one run: which of them writes, what all of them agree on, and how one that fails ends them all.

``torchrun`` (or Ray, or a batch system) starts the processes and tells each its place by the environment variables
RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Without them there is one process, and nothing here costs
anything.
"""

from __future__ import annotations

import atexit
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar, final

import torch
import torch.distributed as dist

from limbeck.core.errors import LimbeckError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = [
    "MaxReducer",
    "Processes",
    "RemoteProcessError",
    "Strategy",
    "all_gather_object",
    "init_processes",
    "make_fabric",
    "raise_on_all_ranks",
]

Strategy = Literal["auto", "ddp", "fsdp"]
P = ParamSpec("P")
T = TypeVar("T")

_STEP_TIMEOUT: Final = timedelta(minutes=30)  # the longest that one process may be behind the others in a training
_RANK_ZERO_TIMEOUT: Final = timedelta(
    days=2
)  # the longest that the first may measure, export and report while the others wait
_RENDEZVOUS_VARIABLES: Final = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_CONNECTION_ERRORS: Final = (
    "Connection closed by peer",
    "Connection reset",
    "Broken pipe",
    "Timed out",
    "gloo",
    "NCCL",
)


@final
class RemoteProcessError(LimbeckError):
    """Another process of this run failed; it tells the user itself, and this one ends with the same status."""

    reported = True

    def __init__(self, rank: int, message: str, status: int) -> None:
        self.signal = status - 128
        super().__init__(f"process {rank} of this run ended: {message}")


@final
@dataclass(frozen=True, slots=True)
class Processes:
    """The place of a process in its run.

    Attributes:
        rank: its number, from 0; the first writes the files and speaks to the user.
        world_size: how many there are.
        group: the group in which the others wait for the first, which may take long.
    """

    rank: int = 0
    world_size: int = 1
    group: Any = None

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes the files and the messages of the run."""
        return self.rank == 0

    def run_on_rank_zero(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn`` in rank 0 only, while the other processes wait.

        Returns:
            The result (plain data), the same in every process.

        Raises:
            RemoteProcessError: in the other processes, if ``fn`` fails in rank 0, which raises the error itself.
        """
        if self.world_size == 1:
            return fn(*args, **kwargs)
        payload: list[Any] = [None]
        if self.rank:
            dist.broadcast_object_list(payload, 0, group=self.group)
        else:
            try:
                payload[0] = (fn(*args, **kwargs), None)
                pickle.dumps(payload[0])
            except BaseException as error:
                dist.broadcast_object_list([(None, _describe_failure(error))], 0, group=self.group)
                raise
            dist.broadcast_object_list(payload, 0, group=self.group)
        value, failure = payload[0]
        if failure is not None:
            raise RemoteProcessError(0, *failure)
        return value  # type: ignore[no-any-return]

    def run_on_all_ranks(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``fn``, which must not wait for other processes, in every process.

        Raises:
            RemoteProcessError: if ``fn`` fails in another process only; the lowest failing rank raises the error itself.
        """
        if self.world_size == 1:
            return fn(*args, **kwargs)
        value: T | None = None
        failure: BaseException | None = None
        try:
            value = fn(*args, **kwargs)
        except BaseException as error:
            failure = error
        failures: list[Any] = [None] * self.world_size
        dist.all_gather_object(failures, None if failure is None else _describe_failure(failure), group=self.group)
        failed_rank = next((rank for rank, entry in enumerate(failures) if entry is not None), None)
        if failure is not None and failed_rank == self.rank:
            raise failure
        if failed_rank is not None:
            raise RemoteProcessError(failed_rank, *failures[failed_rank])
        return value  # type: ignore[return-value]

    def all_gather_object(self, value: T) -> list[T]:
        """``value`` (plain data) of every process, in their order; all have to call it."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.group)
        return values

    @contextmanager
    def distributed_errors(self) -> Iterator[None]:
        """Within, what can go wrong between processes is one sentence: most of all that another one died."""
        try:
            yield
        except RuntimeError as error:
            text = str(error)
            if "not used in producing loss" in text:
                raise LimbeckError(
                    "parts of the student have no share in the loss, and DDP waits for their gradients: hold them "
                    "still (freeze: in a stage), or train in one process"
                ) from error
            if self.world_size == 1 or not (
                isinstance(error, dist.DistError) or any(word in text for word in _CONNECTION_ERRORS)
            ):
                raise
            raise LimbeckError(
                f"process {self.rank} of {self.world_size} lost the others: one of them ended or did not answer, and its "
                "own message says why; go on with --resume when that is mended"
            ) from error


def init_processes() -> Processes:
    """Meet the other processes of this run, where there are any."""
    if _world_size() == 1:
        return Processes()
    _init_process_group()
    return Processes(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=_RANK_ZERO_TIMEOUT))


def make_fabric(*, strategy: Strategy = "auto", precision: Any = "32-true", loggers: Sequence[Any] = ()) -> Fabric:
    """A Fabric for the processes that ``torchrun`` started; for the best single device where it started none.

    Arguments:
        strategy: ``ddp`` (a whole student in each process), ``fsdp`` (each holds a share of it), or ``auto``: ddp where
            there are several processes.
        precision: one of Fabric's, such as ``bf16-mixed``.
        loggers: from :func:`~limbeck.training.callbacks.make_logger`, or Fabric's own.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    from limbeck.training.fsdp import make_fsdp_strategy
    from limbeck.training.precision import make_precision_kwargs

    precision_kwargs = make_precision_kwargs(precision)
    world_size = _world_size()
    if world_size == 1:
        if strategy != "auto":
            raise LimbeckError(
                f"the strategy {strategy!r} spreads a training over processes, and there is one: start several with "
                "torchrun --nproc-per-node N -m limbeck distill …, or set training.strategy to auto"
            )
        return Fabric(accelerator="auto", devices=1, loggers=list(loggers), **precision_kwargs)
    _init_process_group()
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=local_world_size, num_nodes=world_size // local_world_size, strategy="ddp" if strategy != "fsdp" else make_fsdp_strategy(world_size),
        # SLURM is recognised by Fabric as well, which then looks for one task a device, and torchrun is one a machine.
        plugins=[TorchElasticEnvironment(), *precision_kwargs["plugins"]], precision=precision_kwargs["precision"], loggers=list(loggers),
    )  # fmt: skip
    fabric.launch()
    return fabric


@final
class MaxReducer:
    """What one process wants, all do: the largest of each number over all processes.

    Asked in every step, by all alike. Waiting for each other's answer would cost as much as a small network's step, so
    :meth:`reduce_async` gives that of the question before, which came in while the step was computed.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._is_distributed = fabric.world_size > 1
        # On the CPU where it can be: asking a GPU each step would make the processor wait for it.
        uses_gloo = self._is_distributed and "gloo" in str(dist.get_backend_config())
        self._device = torch.device("cpu") if uses_gloo else fabric.device
        self._pending: tuple[Any, torch.Tensor] | None = None

    def reduce(self, *numbers: int) -> list[int]:
        """The answer, at least that of the question before."""
        previous = self.reduce_async(*numbers)
        return (
            [max(pair) for pair in zip(previous, self._wait(len(numbers)), strict=True)]
            if self._is_distributed
            else previous
        )

    def reduce_async(self, *numbers: int) -> list[int]:
        """The answer to the question before, zeros at first; in a single process, that of now."""
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
    """``value`` (plain data or tensors) of every process, in their order."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(values, value)
    return values


def raise_on_all_ranks(fabric: Fabric, error: LimbeckError | None) -> None:
    """Raise ``error``, in all processes where one of them has any.

    One of them says it: the first, of those whose error came about at the earliest ``step``, where errors have one.
    """
    if fabric.world_size == 1:
        if error is not None:
            raise error
        return
    reports = all_gather_object(
        fabric, None if error is None else (getattr(error, "step", 0), _describe_failure(error))
    )
    failures = [(report[0], rank, report[1]) for rank, report in enumerate(reports) if report is not None]
    if failures:
        _, failed_rank, failure = min(failures)
        raise (
            error
            if error is not None and failed_rank == fabric.global_rank
            else RemoteProcessError(failed_rank, *failure)
        )


def _world_size() -> int:
    initialized = dist.is_available() and dist.is_initialized()
    return dist.get_world_size() if initialized else int(os.environ.get("WORLD_SIZE") or 1)


def _init_process_group() -> None:
    """Connect the processes, unless whoever started them has done so."""
    if dist.is_initialized():
        return
    missing = [name for name in _RENDEZVOUS_VARIABLES if name not in os.environ]
    if missing:
        raise LimbeckError(
            f"WORLD_SIZE is {_world_size()}, and {', '.join(missing)} is not set: start the processes with torchrun, which "
            "sets them all, or unset WORLD_SIZE"
        )
    with Processes(int(os.environ["RANK"]), _world_size()).distributed_errors():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_STEP_TIMEOUT)
    atexit.register(_destroy_process_group)


def _describe_failure(error: BaseException) -> tuple[str, int]:
    """What a process says of its failure, and its exit status."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by SIGINT", 130
    if isinstance(error, LimbeckError):
        return str(error), 128 + int(getattr(error, "signal", -126))
    return f"{type(error).__name__}: {error}", 1


def _destroy_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
