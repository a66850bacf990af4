"""All that moves while a network is trained, how it is made, put away and taken out again."""

from __future__ import annotations

import math
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from limbeck.core.errors import LimbeckError
from limbeck.core.memory import keep_freed_memory
from limbeck.core.progress import Progress
from limbeck.data.batch_sampler import Stream
from limbeck.data.counter_rng import mix
from limbeck.distiller.deployment import deployed, reused
from limbeck.distiller.distiller import Distiller
from limbeck.training import checkpoint as saved
from limbeck.training import fsdp as shards
from limbeck.training.callbacks import Row
from limbeck.training.config import Training
from limbeck.training.distributed import from_all

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Plan", "State", "begin", "plan"]


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """How long a training is.

    Attributes:
        steps: its optimizer steps; schedules and the scheduler go by these.
        steps_per_epoch: how many make an epoch.
        epochs: how many epochs that is.
        stop: after how many steps it ends: all of them, or fewer.
        before: the steps of the stages before it.
        total: the steps of all stages together; 0 where that is not known.
    """

    steps: int
    steps_per_epoch: int
    epochs: int
    stop: int
    before: int = 0
    total: int = 0

    def progress(self, step: int) -> Progress:
        """The clock after so many steps."""
        return Progress(step, self.steps, step // self.steps_per_epoch, self.epochs, self.before, self.total)

    @property
    def length(self) -> int | str:
        """What tells this length from another, for the identity of a training."""
        cut = "" if self.stop == self.steps else f", stopped at {self.stop}"
        stages = f", after {self.before} of {self.total}" if self.total not in (0, self.steps) else ""
        return f"{self.steps}{cut}{stages}" if cut or stages else self.steps


def plan(
    stream: Stream, epochs: int | None, steps: int | None, steps_per_epoch: int | None, training: Training,
    *, stop: int | None = None, before: int = 0, total: int = 0,
) -> Plan:  # fmt: skip
    """The length that ``epochs`` or ``steps`` ask for, whichever was given."""
    if (epochs is None) == (steps is None):
        raise LimbeckError("say how long to train: either epochs or steps")
    per_epoch = steps_per_epoch or max(1, stream.steps_per_epoch // training.accumulate)
    length = steps if steps is not None else per_epoch * (epochs or 0)
    if length < 1:
        raise LimbeckError(f"training takes at least one step, not {length}")
    if stop is not None and not 1 <= stop <= length:
        raise LimbeckError(f"a training of {length} steps can stop early after 1 to {length} steps, not after {stop}")
    if before < 0 or (total and total < before + length) or (before and not total):
        raise LimbeckError(
            f"before={before} and total={total} do not hold this stage of {length} steps: give the steps of the stages "
            "before it and those of all stages together"
        )
    return Plan(length, per_epoch, math.ceil(length / per_epoch), stop or length, before, total)


@final
@dataclass(slots=True)
class State:
    """All that moves while training, and how to put it away and take it out again.

    ``given`` is the distiller that came in; ``distiller`` the one that trains, another where its student is in shares.
    """

    given: Distiller
    distiller: Distiller
    model: Any
    backward: Callable[[Tensor], Any]
    optimizer: Any
    scheduler: Any
    fabric: Any
    average: Any
    identity: dict[str, Any]
    step: int = 0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    over: bool = False

    def advance(self, training: Training) -> None:
        """One optimizer step."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.scheduler is not None and training.per == "step":
            self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.distiller.student)

    def kept(self) -> nn.Module:
        """The network that is validated and kept: what the training is for, or the average of its weights."""
        network: nn.Module = deployed(self.distiller) if self.average is None else self.average.module
        return network

    def end_epoch(self, row: Row, training: Training) -> None:
        """Take note of an epoch; stop early when it is time."""
        self.history.append(row)
        if self.scheduler is not None and training.per == "epoch":
            plateau = isinstance(self.scheduler, ReduceLROnPlateau)
            self.scheduler.step(row["validation_nll"]) if plateau else self.scheduler.step()
        top1 = row.get("validation_top1")
        if top1 is not None and top1 > self.best.get("top1", -1.0):
            self.best = {"top1": top1, "epoch": row["epoch"]}
            if training.keep == "best":
                weights = shards.whole(self.kept().state_dict())
                self.best["student"] = {n: t.detach().cpu().clone() for n, t in weights.items()}
        if training.patience is not None and self.best:
            self.over = row["epoch"] - self.best["epoch"] >= training.patience

    def clock(self) -> Callable[[], float]:
        """Seconds of training so far, earlier pieces included."""
        begun = time.monotonic() - self.seconds
        return lambda: time.monotonic() - begun

    def save(self, path: Path | None) -> None:
        """Write everything to ``path``: the first process, while the others take part and wait until it is done."""
        if path is None:
            return
        state = self.whole()
        if not self.fabric.global_rank:
            saved.save(path, state)
        self.together()

    def together(self) -> None:
        """Wait for every process, and take the first one's buffers: BatchNorm's are of each process's own pictures."""
        if self.fabric.world_size > 1:
            for buffer in self.kept().buffers():
                dist.broadcast(buffer, 0)
            from_all(self.fabric, None)

    def whole(self) -> dict[str, Any]:
        """Everything, as tensors and plain values; all processes take part."""
        return {
            "identity": self.identity,
            "step": self.step, "seconds": self.seconds, "history": self.history, "best": self.best, "over": self.over,
            "student": shards.whole(self.distiller.student.state_dict()),
            "terms": shards.whole(self.distiller.objective.state_dict()),
            "teachers": {name: teacher.state_dict() for name, teacher in self._teachers().items()},
            "optimizer": shards.whole(self.optimizer.state_dict()),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "random": from_all(self.fabric, saved.random_states()),
        }  # fmt: skip

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Put everything back, unless it belongs to another training."""
        for name, value in self.identity.items():
            if _meant(state["identity"].get(name)) != _meant(value):
                raise LimbeckError(
                    f"{path} was written by another training: its {name} was {state['identity'].get(name)!r} "
                    f"and is now {value!r}; resume with the settings it was begun with, or choose another folder"
                )
        self.step, self.seconds, self.over = state["step"], state["seconds"], state["over"]
        self.history, self.best = state["history"], state["best"]
        shards.restore_weights(self.distiller.student, state["student"])
        shards.restore_weights(self.distiller.objective, state["terms"])
        for name, teacher in self._teachers().items():
            teacher.load_state_dict(state["teachers"][name])
        shards.restore_optimizer(self.optimizer, state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        saved.restore_random_states(state["random"][self.fabric.global_rank])

    def _teachers(self) -> dict[str, Any]:
        """The teachers that move with the student."""
        return {n: teacher for n, teacher in self.distiller.teachers.items() if hasattr(teacher, "load_state_dict")}

    def finish(self, training: Training) -> nn.Module:
        """What the training was for, with the weights to keep, whole and the same in every process, in eval mode.

        It is the student that was given, or what stands in its place (:func:`limbeck.distiller.deployment`).
        """
        self.together()
        student = self.given.student
        if self.given is not self.distiller:
            self.given.objective.load_state_dict(shards.whole(self.distiller.objective.state_dict()))
        if training.keep == "best" and "student" in self.best:
            student.load_state_dict(self.best["student"])
        elif self.given is not self.distiller or self.average is not None:
            student.load_state_dict(shards.whole(self._weights()))
        return deployed(self.given).eval()

    def _weights(self) -> dict[str, Any]:
        average = self.average
        state: dict[str, Any] = (self.distiller.student if average is None else average.module).state_dict()
        return state


def _require_deployable(distiller: Distiller, training: Training, fabric: Fabric) -> None:
    """Refuse what keeps the student without the rest of what is deployed; that it can be built is seen here too."""
    if reused(distiller) is None:
        return
    deployed(distiller)
    for setting, asked in (
        ("training.keep best", training.keep == "best"), ("training.ema", training.ema is not None),
        ("the strategy fsdp", shards.is_sharding(fabric)),
    ):  # fmt: skip
        if asked:
            raise LimbeckError(
                f"{setting} keeps the student's own weights, and with SimKD a projector of the term's is deployed with "
                "them: leave it away"
            )


def begin(distiller: Distiller, stream: Stream, plan: Plan, training: Training, fabric: Fabric, *, seed: int) -> State:
    """Everything at its start: seeded, on its device, projections shaped, optimizer and scheduler built."""
    saved.seed_all(seed)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    distiller.to(fabric.device)
    distiller.prepare(fabric.to_device(stream.batch(0)))
    _require_deployable(distiller, training, fabric)
    given, model = distiller, None
    if shards.is_sharding(fabric):
        if training.ema is not None:
            raise LimbeckError(
                "training.ema keeps an average of whole weights, and under the strategy fsdp no process has them: "
                "leave ema away, or set the strategy to ddp"
            )
        distiller, model = shards.shared_out(given, fabric)
    learned = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    if not learned:
        raise LimbeckError("nothing is left to train: every parameter of the student is frozen")
    optimizer = training.optimizer(learned)
    times = plan.steps if training.per == "step" else plan.epochs
    scheduler = None if training.scheduler is None else training.scheduler(optimizer, times)
    if isinstance(scheduler, ReduceLROnPlateau) and training.per == "step":
        raise LimbeckError("ReduceLROnPlateau watches the validation loss: set `per: epoch` beside it")
    if model is None:
        model, wrapped = fabric.setup(distiller, optimizer)
    else:
        wrapped = fabric.setup_optimizers(optimizer)
    alone = type(fabric.strategy).__name__ == "SingleDeviceStrategy"
    backward: Callable[[Tensor], Any] = fabric.backward
    if alone and fabric.strategy.precision.precision == "32-true":
        # Here Fabric's wrappers change nothing; but they would walk through every batch and loss to do so.
        model, backward = distiller, Tensor.backward
        if not getattr(wrapped, "_callbacks", True):
            wrapped = optimizer
    distiller.train()
    average = None
    if training.ema is not None:
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        decay = get_ema_multi_avg_fn(training.ema)  # type: ignore[no-untyped-call]
        average = AveragedModel(distiller.student, multi_avg_fn=decay, use_buffers=True)
    if fabric.global_rank:
        saved.seed_all(mix(seed, fabric.global_rank))  # else dropout would draw the same mask in every process
    identity = {
        "objective": str(distiller.objective), "steps": plan.length, "steps per epoch": plan.steps_per_epoch,
        "batch": training.batch if training.sampling == "plain" else f"{training.batch} {training.sampling}",
        "processes": fabric.world_size, "optimizer": f"{type(optimizer).__name__} {optimizer.defaults}", "seed": seed,
        "student": zlib.crc32(str([(n, tuple(p.shape)) for n, p in distiller.student.state_dict().items()]).encode()),
    }  # fmt: skip
    return State(given, distiller, model, backward, wrapped, scheduler, fabric, average, identity)


def _meant(value: Any) -> Any:
    """The same text for the same settings: a recipe written out says 0.0 and [0.9] where a default is 0 and (0.9,)."""
    if not isinstance(value, str):
        return value
    return re.sub(r"(?<![\w.])(\d+)\.0(?![\de])", r"\1", value).translate({ord("("): "[", ord(")"): "]"})
