"""The training loop, as one readable function on Lightning Fabric: devices, precision and processes come from there."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, final

import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.data.batch_sampler import Looped, Stream
from limbeck.data.counter_rng import mix
from limbeck.data.pair_batches import sampled
from limbeck.distiller.distiller import Distiller
from limbeck.distiller.objective import Loss
from limbeck.training import checkpoint as saved
from limbeck.training.callbacks import Bar, Metrics, Row, Watcher
from limbeck.training.checkpoint import Diverged, Stopped
from limbeck.training.config import Training
from limbeck.training.distributed import Agreement, from_all, launched, raise_together
from limbeck.training.fsdp import is_sharding, own_share
from limbeck.training.gradient_norms import due, looked
from limbeck.training.metric_accumulator import Meter, in_step, measure
from limbeck.training.temperature_log import Temperatures
from limbeck.training.train_state import State, begin
from limbeck.training.train_state import plan as make_plan

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Run", "Source", "dealt", "fit", "one_device"]


class Source(Protocol):
    """What gives batches: limbeck's data, or a user's loaders."""

    def stream(self, *, batch: int, pictures: Literal["all", "labelled"], rank: int, world: int) -> Stream:
        """Training batches by number."""
        ...

    def validation_batches(self) -> Iterator[Any]:
        """The validation part; with several processes, ``rank`` and ``world`` ask for a share of its batches."""
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
    stop: int | None = None,
    before: int = 0,
    total: int = 0,
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

    On a CPU this process keeps from now on what it frees, see :func:`~limbeck.core.memory.keep_freed_memory`.

    Arguments:
        distiller: student, teachers and objective.
        data: limbeck's :class:`~limbeck.data.Data`, or :func:`limbeck.data.loaders` of your own.
        epochs: how often to show every picture; or give ``steps``.
        steps: how many optimizer steps to make; an epoch is then still one round of the pictures.
        steps_per_epoch: after how many steps to validate and count an epoch; ``None``: when all were shown once.
        stop: end after so many steps, with the schedules of the full length; ``None``: at the full length.
        before: in a training of several stages, the steps of those before this one.
        total: the steps of all stages together, which ``schedule.overall`` reads; 0: not known.
        training: optimizer, batch and the like.
        out: the run folder; gets ``metrics.csv``, ``temperatures.csv`` where a term has a temperature, and
            ``checkpoint/``. ``None`` writes nothing.
        phase: whose training this is, in files and bars.
        stage: which of its stages, in files and bars.
        pictures: train on ``all``, or only on those with a label.
        seed: of whatever is drawn from torch's generators (dropout, new projections).
        resume: go on from the checkpoint in ``out``, if there is one.
        fabric: devices, precision, processes; ``None``: float32 on the processes that ``torchrun`` started, and without
            it on one device, the best there is.
        watchers: who is told how it goes; ``None``: a progress bar.

    With several processes, each calls this alike with its own share of the pictures; the first one writes. The student
    comes out the same in all of them.

    Raises :class:`Diverged` when the loss is not finite, and :class:`Stopped`, after saving, on Ctrl-C or SIGTERM.
    """
    fabric = fabric or launched()
    stream = dealt(data, training, pictures, rank=fabric.global_rank, world=fabric.world_size)
    plan = make_plan(stream, epochs, steps, steps_per_epoch, training, stop=stop, before=before, total=total)
    state = begin(distiller, stream, plan, training, fabric, seed=mix(seed, zlib.crc32(f"{phase}/{stage}".encode())))
    folder = None if out is None else Path(out)
    path = None if folder is None else folder / "checkpoint" / f"{phase}.{stage}.pt"
    distiller = state.distiller
    if resume and path is not None and _there(path, fabric):
        try:
            state.restore(saved.load(path), path)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise LimbeckError(
                f"the checkpoint {path} lacks what a training needs ({type(error).__name__}: {str(error)[:80]!r}): "
                "remove it to begin this stage again, or put a copy back"
            ) from error
    told: list[Watcher] = [] if fabric.global_rank else list([Bar()] if watchers is None else watchers)
    if folder is not None and not fabric.global_rank:
        told.append(Metrics(folder / "metrics.csv", phase=phase, stage=stage))
        taus = Temperatures(folder / "temperatures.csv", phase=phase, stage=stage, step=state.step)
    else:
        taus = None

    with saved.listen_for_signals() as signals, _watched(told, phase, state.step, plan.stop):
        meter, agreement = Meter(), Agreement(fabric)
        last_saved, last_late, last_told = time.monotonic(), 0.0, 0.0
        batches = _batches(stream, state.step * training.accumulate, plan.stop * training.accumulate, training.workers)
        # Walking through a batch to move it nowhere would be a tenth of a millisecond a step.
        to_device: Callable[[Any], Any] = fabric.to_device if fabric.device.type != "cpu" else lambda batch: batch
        shared, clock, begun = fabric.world_size > 1, state.clock(), state.step
        pulled: dict[str, float] = {}
        everyone = partial(from_all, fabric)
        while state.step < plan.stop and not state.over:
            # Not by nn.Module, which would look each step whether it is a parameter, a module or a buffer.
            object.__setattr__(distiller, "progress", plan.progress(state.step))
            look = due(state.step + 1, steps_per_epoch=plan.steps_per_epoch, stop=plan.stop) and not is_sharding(fabric)
            for micro in range(training.accumulate):
                with (
                    fabric.no_backward_sync(state.model)
                    if shared and micro + 1 < training.accumulate
                    else nullcontext()
                ):
                    loss: Loss = _seen(state, to_device(next(batches)), pulled, look=look and not micro)
                    state.backward(loss.total / training.accumulate if training.accumulate > 1 else loss.total)
                meter.add(loss)
                if taus is not None and loss.taus:
                    taus.add(state.step + 1, loss.taus)
            if training.clip is not None:
                fabric.clip_gradients(state.model, state.optimizer, max_norm=training.clip, error_if_nonfinite=False)
            state.advance(training)

            now = time.monotonic()
            ended = state.step % plan.steps_per_epoch == 0 or state.step == plan.stop
            if late := now - max(last_saved, last_late) > training.checkpoint_every:
                last_late = now
            ask = agreement.now if ended else agreement.later  # after an epoch it may be over, and nobody asks again
            number, saving = ask(signals[0] if signals else 0, int(late))
            save = number or saving or state.step == plan.stop
            tell = now - last_told > 0.2
            # By the clock of one process alone, the others would not know of it.
            if ended or save or (tell and not shared):
                raise_together(fabric, _infinite_loss(meter.bad(), distiller, begun, training, path))
            if tell:
                last_told = now
                figures = _figures(meter, state)
                for watcher in told:
                    watcher.step(state.step, figures)
                fabric.log_dict({f"{phase}/{name}": value for name, value in figures.items()}, step=state.step)
            if ended:
                row = {"phase": phase, "stage": stage, "epoch": math.ceil(state.step / plan.steps_per_epoch)}
                whole = meter.together(everyone)
                row |= {"step": state.step, "seconds": clock(), **_figures(whole, state), **pulled}
                pulled.clear()
                state.together()
                row |= measure(
                    state.kept(), _validation(data, stream, fabric), distiller.task, fabric.to_device, everyone
                )
                state.end_epoch(row, training)
                if taus is not None:
                    taus.write()
                for watcher in told:
                    watcher.step(state.step, _figures(whole, state))
                    watcher.epoch(state.history)
                meter.reset()
                fabric.log_dict({f"{phase}/{k}": v for k, v in row.items() if isinstance(v, float)}, step=state.step)
            if save or state.over:
                last_saved = now
                state.seconds = clock()
                raise_together(fabric, _infinite_weights(distiller, state, path))
                if taus is not None:
                    taus.write()
                state.save(path)
            if number:
                raise Stopped(number, path, told=fabric.global_rank > 0)
    _finish(distiller, fabric)
    return Run(state.finish(training), state.history, state.step, state.seconds, folder)


def _seen(state: State, batch: Any, pulled: dict[str, float], *, look: bool) -> Loss:
    """The loss of ``batch``; where it is time to ``look``, how hard each term pulls comes into ``pulled``."""
    if not look:
        loss: Loss = state.model(batch)
        return loss
    state.distiller.objective.look = True
    try:
        loss = state.model(batch)
    finally:
        state.distiller.objective.look = False
    pulled |= looked(state.distiller, loss)
    return loss


def dealt(
    data: Source | Any,
    training: Training,
    pictures: Literal["all", "labelled"] = "all",
    *,
    rank: int = 0,
    world: int = 1,
) -> Stream:
    """The batches of a training by number, for one of ``world`` processes."""
    size = training.batch if training.sampling == "plain" else training.batch // 2
    stream: Stream = data.stream(batch=size, pictures=pictures, rank=rank, world=world)
    return stream if training.sampling == "plain" else sampled(stream, training.sampling)


def _finish(distiller: Distiller, fabric: Fabric) -> None:
    """Tell the teachers that it is over, once all processes have come here: a cache then writes its index."""
    closing = [finish for teacher in distiller.teachers.values() if (finish := getattr(teacher, "finish", None))]
    if closing and fabric.world_size > 1:
        fabric.barrier()
    if not fabric.global_rank:
        for finish in closing:
            finish()


def _batches(stream: Stream, start: int, stop: int, workers: int) -> Iterator[Any]:
    if workers and isinstance(stream, Looped):
        raise LimbeckError("training.workers is for limbeck's own data: set num_workers on your own loader instead")
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


def _validation(data: Any, stream: Stream, fabric: Fabric) -> Iterator[Any]:
    """The part of the validation part that this process measures."""
    place = {} if fabric.world_size == 1 else {"rank": fabric.global_rank, "world": fabric.world_size}
    batches: Iterator[Any] = data.validation_batches(**place)
    return in_step(batches, partial(stream.batch, 0), partial(from_all, fabric)) if is_sharding(fabric) else batches


def _there(path: Path, fabric: Fabric) -> bool:
    """Whether there is a checkpoint; all processes have to see the same."""
    seen = from_all(fabric, path.exists())
    if len(set(seen)) > 1:
        raise LimbeckError(
            f"the checkpoint {path} is there for some processes and not for process {seen.index(False)}: put the run "
            "folder on a file system that all machines share"
        )
    return seen[0]


def _figures(meter: Meter, state: State) -> dict[str, float]:
    figures = meter.means()
    figures["lr"] = float(state.optimizer.param_groups[0]["lr"])
    figures["images_per_second"] = meter.samples / max(time.monotonic() - meter.since, 1e-9)
    if state.history and "validation_top1" in state.history[-1]:
        figures["validation_top1"] = state.history[-1]["validation_top1"]
    return figures


def _infinite_loss(
    bad: tuple[int, list[str]] | None, distiller: Distiller, begun: int, training: Training, path: Path | None
) -> Diverged | None:
    if bad is None:
        return None
    step = begun + bad[0] // training.accumulate
    terms = ", ".join(f"{name!r} ({type(distiller.objective.terms[name]).__name__})" for name in bad[1])
    return Diverged(f"the loss is not finite at step {step}: the term {terms} is; {_advice(path)}", step=step)


def _infinite_weights(distiller: Distiller, state: State, path: Path | None) -> Diverged | None:
    for name, parameter in distiller.named_parameters():
        if not bool(torch.isfinite(own_share(parameter)).all()):
            words = f"the weights {name!r} are not finite after step {state.step}; {_advice(path)}"
            return Diverged(words, step=state.step)
    return None


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


def one_device(*, precision: Any = "32-true", loggers: Sequence[Any] = ()) -> Fabric:
    """A Fabric for the best single device there is, also where ``torchrun`` started several processes.

    Arguments:
        precision: one of Fabric's, such as ``bf16-mixed``.
        loggers: from :func:`~limbeck.training.callbacks.logger`, or Fabric's own.
    """
    from lightning_fabric import Fabric

    from limbeck.training.precision import mixed

    return Fabric(accelerator="auto", devices=1, loggers=list(loggers), **mixed(precision))
