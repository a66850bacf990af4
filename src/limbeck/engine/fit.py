"""The training loop, as one readable function on Lightning Fabric: devices, precision and processes come from there."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, final

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.data.draws import mix
from limbeck.data.stream import Stream
from limbeck.engine import checkpoint as saved
from limbeck.engine.checkpoint import Diverged, Stopped
from limbeck.engine.meter import Meter, measure
from limbeck.engine.training import Training
from limbeck.engine.watchers import Bar, Metrics, Row, Watcher
from limbeck.objective.distiller import Distiller
from limbeck.objective.objective import Loss

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Run", "Source", "fit"]


class Source(Protocol):
    """What gives batches: limbeck's data, or a user's loaders."""

    def stream(self, *, batch: int, pictures: Literal["all", "labelled"], rank: int, world: int) -> Stream:
        """Training batches by number."""
        ...

    def validation_batches(self) -> Iterator[Any]:
        """The validation part."""
        ...


@final
@dataclass(slots=True)
class Run:
    """A training that ended.

    Attributes:
        student: the trained network, in eval mode, with the weights that were to be kept.
        history: one row for each epoch, as in ``metrics.csv``.
        steps: optimizer steps done.
        seconds: time spent, over all resumed pieces.
        folder: where its files are, or ``None``.
    """

    student: nn.Module
    history: list[Row]
    steps: int
    seconds: float
    folder: Path | None = None


def fit(
    distiller: Distiller,
    data: Source | Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    training: Training = Training(),
    out: str | Path | None = None,
    phase: str = "distilled",
    stage: str = "distill",
    pictures: Literal["all", "labelled"] = "all",
    seed: int = 0,
    resume: bool = False,
    fabric: Fabric | None = None,
    watchers: Sequence[Watcher] | None = None,
) -> Run:
    """Train the distiller's student.

    Arguments:
        distiller: student, teachers and objective.
        data: limbeck's :class:`~limbeck.data.Data`, or :func:`limbeck.data.loaders` of your own.
        epochs: how often to show every picture; or give ``steps``.
        steps: how many optimizer steps to make; an epoch is then still one round of the pictures.
        steps_per_epoch: after how many steps to validate and count an epoch; ``None``: when all were shown once.
        training: optimizer, batch and the like.
        out: the run folder; gets ``metrics.csv`` and ``checkpoint/``. ``None`` writes nothing.
        phase: whose training this is, in files and bars.
        stage: which of its stages, in files and bars.
        pictures: train on ``all``, or only on those with a label.
        seed: of whatever is drawn from torch's generators (dropout, new projections).
        resume: go on from the checkpoint in ``out``, if there is one.
        fabric: devices, precision, processes; ``None``: one device, the best there is, float32.
        watchers: who is told how it goes; ``None``: a progress bar.

    Raises :class:`Diverged` when the loss is not finite, and :class:`Stopped`, after saving, on Ctrl-C or SIGTERM.
    """
    fabric = fabric or _one_device()
    stream = data.stream(batch=training.batch, pictures=pictures, rank=fabric.global_rank, world=fabric.world_size)
    plan = _plan(stream, epochs, steps, steps_per_epoch, training)
    state = _begin(distiller, stream, plan, training, fabric, seed=mix(seed, zlib.crc32(f"{phase}/{stage}".encode())))
    folder = None if out is None else Path(out)
    path = None if folder is None else folder / "checkpoint" / f"{phase}.{stage}.pt"
    if resume and path is not None and path.exists():
        state.restore(saved.load(path), path)
    told: list[Watcher] = [] if fabric.global_rank else list([Bar()] if watchers is None else watchers)
    if folder is not None and not fabric.global_rank:
        told.append(Metrics(folder / "metrics.csv", phase=phase, stage=stage))

    with saved.listen_for_signals() as signals, _watched(told, phase, state.step, plan.steps):
        meter, last_saved, last_told = Meter(), time.monotonic(), 0.0
        batches = _batches(stream, state.step * training.accumulate, plan.steps * training.accumulate, training.workers)
        clock = state.clock()
        while state.step < plan.steps and not state.over:
            distiller.progress = Progress(state.step, plan.steps, state.step // plan.steps_per_epoch, plan.epochs)
            for micro in range(training.accumulate):
                with fabric.no_backward_sync(state.model, enabled=micro + 1 < training.accumulate):
                    loss: Loss = state.model(fabric.to_device(next(batches)))
                    _require_finite(loss, distiller, state, path)
                    fabric.backward(loss.total / training.accumulate if training.accumulate > 1 else loss.total)
                meter.add(loss)
            if training.clip is not None:
                fabric.clip_gradients(state.model, state.optimizer, max_norm=training.clip, error_if_nonfinite=False)
            state.advance(training)

            now = time.monotonic()
            if now - last_told > 0.2 or state.step == plan.steps:
                last_told = now
                figures = _figures(meter, state)
                for watcher in told:
                    watcher.step(state.step, figures)
                fabric.log_dict({f"{phase}/{name}": value for name, value in figures.items()}, step=state.step)
            if state.step % plan.steps_per_epoch == 0 or state.step == plan.steps:
                row = {"phase": phase, "stage": stage, "epoch": math.ceil(state.step / plan.steps_per_epoch)}
                row |= {"step": state.step, "seconds": clock(), **_figures(meter, state)}
                row |= measure(state.kept(), data.validation_batches(), distiller.task, fabric.to_device)
                state.end_epoch(row, training)
                meter.reset()
                for watcher in told:
                    watcher.epoch(state.history)
                fabric.log_dict({f"{phase}/{k}": v for k, v in row.items() if isinstance(v, float)}, step=state.step)
            if signals or state.step == plan.steps or state.over or now - last_saved > training.checkpoint_every:
                last_saved = now
                state.seconds = clock()
                _require_finite_weights(distiller, state, path)
                if path is not None and not fabric.global_rank:
                    saved.save(path, state.whole())
            if signals and state.step < plan.steps:
                raise Stopped(signals[0], path)
    return Run(state.finish(training), state.history, state.step, state.seconds, folder)


@dataclass(frozen=True, slots=True)
class _Plan:
    steps: int
    steps_per_epoch: int
    epochs: int


def _plan(
    stream: Stream, epochs: int | None, steps: int | None, steps_per_epoch: int | None, training: Training
) -> _Plan:
    if (epochs is None) == (steps is None):
        raise LimbeckError("say how long to train: either epochs or steps")
    per_epoch = steps_per_epoch or max(1, stream.steps_per_epoch // training.accumulate)
    total = steps if steps is not None else per_epoch * (epochs or 0)
    if total < 1:
        raise LimbeckError(f"training takes at least one step, not {total}")
    return _Plan(total, per_epoch, math.ceil(total / per_epoch))


@dataclass(slots=True)
class _State:
    """All that moves while training, and how to put it away and take it out again."""

    distiller: Distiller
    model: Any
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
        """The network that is validated and kept: the student, or the average of its weights."""
        network: nn.Module = self.distiller.student if self.average is None else self.average.module
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
                self.best["student"] = {n: t.detach().cpu().clone() for n, t in self.kept().state_dict().items()}
        if training.patience is not None and self.best:
            self.over = row["epoch"] - self.best["epoch"] >= training.patience

    def clock(self) -> Callable[[], float]:
        """Seconds of training so far, earlier pieces included."""
        begun = time.monotonic() - self.seconds
        return lambda: time.monotonic() - begun

    def whole(self) -> dict[str, Any]:
        """Everything, as tensors and plain values."""
        return {
            "identity": self.identity,
            "step": self.step, "seconds": self.seconds, "history": self.history, "best": self.best, "over": self.over,
            "student": self.distiller.student.state_dict(),
            "terms": self.distiller.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "random": saved.random_states(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Put everything back, unless it belongs to another training."""
        for name, value in self.identity.items():
            if state["identity"].get(name) != value:
                raise LimbeckError(
                    f"{path} was written by another training: its {name} was {state['identity'].get(name)!r} "
                    f"and is now {value!r}; resume with the settings it was begun with, or choose another folder"
                )
        self.step, self.seconds, self.over = state["step"], state["seconds"], state["over"]
        self.history, self.best = state["history"], state["best"]
        self.distiller.student.load_state_dict(state["student"])
        self.distiller.objective.load_state_dict(state["terms"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        saved.restore_random_states(state["random"])

    def finish(self, training: Training) -> nn.Module:
        """The student with the weights to keep, in eval mode."""
        student = self.distiller.student
        if training.keep == "best" and "student" in self.best:
            student.load_state_dict(self.best["student"])
        elif self.average is not None:
            student.load_state_dict(self.average.module.state_dict())
        return student.eval()


def _begin(
    distiller: Distiller, stream: Stream, plan: _Plan, training: Training, fabric: Fabric, *, seed: int
) -> _State:
    saved.seed_all(seed)
    distiller.to(fabric.device)
    distiller.prepare(fabric.to_device(stream.batch(0)))
    learned = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    if not learned:
        raise LimbeckError("nothing is left to train: every parameter of the student is frozen")
    optimizer = training.optimizer(learned)
    times = plan.steps if training.per == "step" else plan.epochs
    scheduler = None if training.scheduler is None else training.scheduler(optimizer, times)
    if isinstance(scheduler, ReduceLROnPlateau) and training.per == "step":
        raise LimbeckError("ReduceLROnPlateau watches the validation loss: set `per: epoch` beside it")
    model, wrapped = fabric.setup(distiller, optimizer)
    distiller.train()
    average = None
    if training.ema is not None:
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        decay = get_ema_multi_avg_fn(training.ema)  # type: ignore[no-untyped-call]
        average = AveragedModel(distiller.student, multi_avg_fn=decay, use_buffers=True)
    identity = {
        "objective": str(distiller.objective), "steps": plan.steps, "steps per epoch": plan.steps_per_epoch,
        "batch": training.batch, "optimizer": f"{type(optimizer).__name__} {optimizer.defaults}", "seed": seed,
        "student": zlib.crc32(str([(n, tuple(p.shape)) for n, p in distiller.student.state_dict().items()]).encode()),
    }  # fmt: skip
    return _State(distiller, model, wrapped, scheduler, fabric, average, identity)


def _batches(stream: Stream, start: int, stop: int, workers: int) -> Iterator[Any]:
    if not workers:
        return (stream.batch(number) for number in range(start, stop))
    from torch.utils.data import DataLoader

    # Each item is a whole batch and depends on its number only, so workers change nothing but the speed.
    # Without a generator of its own, the loader would draw from the one that dropout draws from.
    loader = DataLoader(
        _Items(stream), batch_size=None, sampler=range(start, stop), num_workers=workers, generator=torch.Generator()
    )
    return iter(loader)


@dataclass(frozen=True)
class _Items(torch.utils.data.Dataset[Any]):
    stream: Stream

    def __getitem__(self, number: int) -> Any:
        return self.stream.batch(number)


def _figures(meter: Meter, state: _State) -> dict[str, float]:
    figures = meter.means()
    figures["lr"] = float(state.optimizer.param_groups[0]["lr"])
    figures["images_per_second"] = meter.samples / max(time.monotonic() - meter.since, 1e-9)
    if state.history and "validation_top1" in state.history[-1]:
        figures["validation_top1"] = state.history[-1]["validation_top1"]
    return figures


def _require_finite(loss: Loss, distiller: Distiller, state: _State, path: Path | None) -> None:
    if math.isfinite(float(loss.total.detach())):
        return
    bad = [name for name, part in loss.parts.items() if not math.isfinite(float(part))] or list(loss.parts)
    terms = ", ".join(f"{name!r} ({type(distiller.objective.terms[name]).__name__})" for name in bad)
    raise Diverged(f"the loss is not finite at step {state.step}: the term {terms} is; {_advice(path)}")


def _require_finite_weights(distiller: Distiller, state: _State, path: Path | None) -> None:
    for name, parameter in distiller.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise Diverged(f"the weights {name!r} are not finite after step {state.step}; {_advice(path)}")


def _advice(path: Path | None) -> str:
    last = f"the last good checkpoint is {path}" if path is not None and path.exists() else "there is no checkpoint yet"
    return f"{last}. Lower the learning rate, set training.clip, or look at the inputs for NaN"


@contextmanager
def _watched(watchers: list[Watcher], title: str, step: int, steps: int) -> Iterator[None]:
    """Tells the watchers of the beginning and of the end, whatever happens between."""
    for watcher in watchers:
        watcher.begin(title=title, step=step, steps=steps)
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.end()


def _one_device() -> Fabric:
    from lightning_fabric import Fabric

    return Fabric(accelerator="auto", devices=1)
