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
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, final

import torch
import torch.distributed as dist

from limbeck.core.errors import LimbeckError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Agreement", "Elsewhere", "Processes", "Strategy", "from_all", "join", "launched", "raise_together"]

Strategy = Literal["auto", "ddp", "fsdp"]
T = TypeVar("T")

_STEP: Final = timedelta(minutes=30)  # the longest that one process may be behind the others in a training
_ALONE: Final = timedelta(days=2)  # the longest that the first may measure, export and report while the others wait
_PLACE: Final = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_LOST: Final = ("Connection closed by peer", "Connection reset", "Broken pipe", "Timed out", "gloo", "NCCL")


@final
class Elsewhere(LimbeckError):
    """Another process of this run failed; it tells the user itself, and this one ends with the same status."""

    told = True

    def __init__(self, rank: int, sentence: str, status: int) -> None:
        self.signal = status - 128
        super().__init__(f"process {rank} of this run ended: {sentence}")


@final
@dataclass(frozen=True, slots=True)
class Processes:
    """The place of a process in its run.

    Attributes:
        rank: its number, from 0; the first writes the files and speaks to the user.
        world: how many there are.
        waiting: the group in which the others wait for the first, which may take long.
    """

    rank: int = 0
    world: int = 1
    waiting: Any = None

    def first(self, work: Callable[[], T]) -> T:
        """What ``work`` gives (plain data), done by the first process while the others wait; its failure is theirs."""
        if self.world == 1:
            return work()
        said: list[Any] = [None]
        if self.rank:
            dist.broadcast_object_list(said, 0, group=self.waiting)
        else:
            try:
                said[0] = (work(), None)
                pickle.dumps(said[0])
            except BaseException as error:
                dist.broadcast_object_list([(None, _told(error))], 0, group=self.waiting)
                raise
            dist.broadcast_object_list(said, 0, group=self.waiting)
        value, failure = said[0]
        if failure is not None:
            raise Elsewhere(0, *failure)
        return value  # type: ignore[no-any-return]

    def each(self, work: Callable[[], T]) -> T:
        """What ``work`` gives, done by every process on its own; where it fails in any, it fails in all.

        The first process that failed says why; ``work`` must not wait for other processes.
        """
        if self.world == 1:
            return work()
        value: T | None = None
        failure: BaseException | None = None
        try:
            value = work()
        except BaseException as error:
            failure = error
        failures: list[Any] = [None] * self.world
        dist.all_gather_object(failures, None if failure is None else _told(failure), group=self.waiting)
        guilty = next((rank for rank, said in enumerate(failures) if said is not None), None)
        if failure is not None and guilty == self.rank:
            raise failure
        if guilty is not None:
            raise Elsewhere(guilty, *failures[guilty])
        return value  # type: ignore[return-value]

    def gathered(self, value: T) -> list[T]:
        """``value`` (plain data) of every process, in their order; all have to call it."""
        if self.world == 1:
            return [value]
        everyone: list[Any] = [None] * self.world
        dist.all_gather_object(everyone, value, group=self.waiting)
        return everyone

    @contextmanager
    def one_fate(self) -> Iterator[None]:
        """Within, what can go wrong between processes is one sentence: most of all that another one died."""
        try:
            yield
        except RuntimeError as error:
            text = str(error)
            if "not used in producing loss" in text:
                raise LimbeckError(
                    "parts of the student have no share in the loss, and DDP waits for their gradients: hold them "
                    "still (frozen: in a stage), or train in one process"
                ) from error
            if self.world == 1 or not (isinstance(error, dist.DistError) or any(word in text for word in _LOST)):
                raise
            raise LimbeckError(
                f"process {self.rank} of {self.world} lost the others: one of them ended or did not answer, and its "
                "own message says why; go on with --resume when that is mended"
            ) from error


def join() -> Processes:
    """Meet the other processes of this run, where there are any."""
    if _world() == 1:
        return Processes()
    _meet()
    return Processes(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=_ALONE))


def launched(*, strategy: Strategy = "auto", precision: Any = "32-true", loggers: Sequence[Any] = ()) -> Fabric:
    """A Fabric for the processes that ``torchrun`` started; for the best single device where it started none.

    Arguments:
        strategy: ``ddp`` (a whole student in each process), ``fsdp`` (each holds a share of it), or ``auto``: ddp where
            there are several processes.
        precision: one of Fabric's, such as ``bf16-mixed``.
        loggers: from :func:`~limbeck.training.callbacks.logger`, or Fabric's own.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    from limbeck.training.fsdp import sharding
    from limbeck.training.precision import mixed

    told = mixed(precision)
    world = _world()
    if world == 1:
        if strategy != "auto":
            raise LimbeckError(
                f"the strategy {strategy!r} spreads a training over processes, and there is one: start several with "
                "torchrun --nproc-per-node N -m limbeck distill …, or set training.strategy to auto"
            )
        return Fabric(accelerator="auto", devices=1, loggers=list(loggers), **told)
    _meet()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=here, num_nodes=world // here, strategy="ddp" if strategy != "fsdp" else sharding(world),
        # SLURM is recognised by Fabric as well, which then looks for one task a device, and torchrun is one a machine.
        plugins=[TorchElasticEnvironment(), *told["plugins"]], precision=told["precision"], loggers=list(loggers),
    )  # fmt: skip
    fabric.launch()
    return fabric


@final
class Agreement:
    """What one process wants, all do: the largest of each number over all processes.

    Asked in every step, by all alike. Waiting for each other's answer would cost as much as a small network's step, so
    :meth:`later` gives that of the question before, which came in while the step was computed.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._several = fabric.world_size > 1
        # On the CPU where it can be: asking a GPU each step would make the processor wait for it.
        by_cpu = self._several and "gloo" in str(dist.get_backend_config())
        self._device = torch.device("cpu") if by_cpu else fabric.device
        self._asked: tuple[Any, torch.Tensor] | None = None

    def now(self, *numbers: int) -> list[int]:
        """The answer, at least that of the question before."""
        before = self.later(*numbers)
        return [max(pair) for pair in zip(before, self._answer(len(numbers)), strict=True)] if self._several else before

    def later(self, *numbers: int) -> list[int]:
        """The answer to the question before, zeros at first; in a single process, that of now."""
        if not self._several:
            return list(numbers)
        before = self._answer(len(numbers))
        mine = torch.tensor(numbers, dtype=torch.int64, device=self._device)
        self._asked = dist.all_reduce(mine, dist.ReduceOp.MAX, async_op=True), mine
        return before

    def _answer(self, many: int) -> list[int]:
        if self._asked is None:
            return [0] * many
        (work, most), self._asked = self._asked, None
        work.wait()
        return [int(number) for number in most.tolist()]


def from_all(fabric: Fabric, value: T) -> list[T]:
    """``value`` (plain data or tensors) of every process, in their order."""
    if fabric.world_size == 1:
        return [value]
    everyone: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(everyone, value)
    return everyone


def raise_together(fabric: Fabric, error: LimbeckError | None) -> None:
    """Raise ``error``, in all processes where one of them has any.

    One of them says it: the first, of those whose error came about at the earliest ``step``, where errors have one.
    """
    if fabric.world_size == 1:
        if error is not None:
            raise error
        return
    said = from_all(fabric, None if error is None else (getattr(error, "step", 0), _told(error)))
    failures = [(one[0], rank, one[1]) for rank, one in enumerate(said) if one is not None]
    if failures:
        _, guilty, failure = min(failures)
        raise error if error is not None and guilty == fabric.global_rank else Elsewhere(guilty, *failure)


def _world() -> int:
    met = dist.is_available() and dist.is_initialized()
    return dist.get_world_size() if met else int(os.environ.get("WORLD_SIZE") or 1)


def _meet() -> None:
    """Connect the processes, unless whoever started them has done so."""
    if dist.is_initialized():
        return
    missing = [name for name in _PLACE if name not in os.environ]
    if missing:
        raise LimbeckError(
            f"WORLD_SIZE is {_world()}, and {', '.join(missing)} is not set: start the processes with torchrun, which "
            "sets them all, or unset WORLD_SIZE"
        )
    with Processes(int(os.environ["RANK"]), _world()).one_fate():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_STEP)
    atexit.register(_leave)


def _told(error: BaseException) -> tuple[str, int]:
    """What a process says of its failure, and its exit status."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by SIGINT", 130
    if isinstance(error, LimbeckError):
        return str(error), 128 + int(getattr(error, "signal", -126))
    return f"{type(error).__name__}: {error}", 1


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
