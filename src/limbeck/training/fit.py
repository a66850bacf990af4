"""The training loop on Lightning Fabric, which provides devices, precision and processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, final

import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.data.batch_sampler import BatchStream, LoaderAdapter
from limbeck.data.pair_batches import pair_batches
from limbeck.distiller.distiller import Distiller
from limbeck.distiller.objective import LossOutput
from limbeck.training.callbacks import Callback, MetricsCSV, MetricsRow, ProgressBar, TemperatureCSV
from limbeck.training.checkpoint import TrainingDiverged, TrainingInterrupted, catch_signals
from limbeck.training.config import TrainingConfig
from limbeck.training.distributed import MaxReducer, all_gather_object, raise_on_all_ranks
from limbeck.training.fabric import make_fabric
from limbeck.training.fsdp import is_fsdp, local_shard
from limbeck.training.gradient_norms import GradientNorms
from limbeck.training.metric_accumulator import MetricAccumulator, equalize_batches, run_validation
from limbeck.training.train_state import TrainState, compute_training_length, initialize_state, training_seed

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["FitResult", "TrainingData", "fit", "get_batches"]

_SECONDS_BETWEEN_LOGS = 0.5


class TrainingData(Protocol):
    """Batches for a training: a limbeck data module, or :func:`limbeck.data.from_loaders`."""

    def batches(self, *, batch_size: int, subset: Literal["all", "labeled"], rank: int, world_size: int) -> BatchStream:
        """Training batches by index."""
        ...

    def validation_batches(self) -> Iterator[Any]:
        """Batches of the validation split; with several processes, takes ``rank`` and ``world_size`` too."""
        ...


@final
@dataclass(slots=True)
class FitResult:
    """Result of :func:`fit`.

    Attributes:
        student: the trained network in eval mode, with the weights that ``keep_weights`` selects.
        history: one row per epoch, as in ``metrics.csv``.
        steps: number of optimizer steps.
        seconds: training time, including that before a resume.
        run_dir: folder of the run, or ``None``.
    """

    student: nn.Module
    history: list[MetricsRow]
    steps: int
    seconds: float
    run_dir: Path | None = None


def fit(
    distiller: Distiller,
    data: TrainingData | Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    stop_after_steps: int | None = None,
    steps_before: int = 0,
    total_steps: int = 0,
    training: TrainingConfig = TrainingConfig(),
    run_dir: str | Path | None = None,
    phase: str = "distilled",
    stage: str = "distill",
    subset: Literal["all", "labeled"] = "all",
    seed: int = 0,
    resume: bool = False,
    fabric: Fabric | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> FitResult:
    """Train the distiller's student.

    With several processes, each calls this with the same arguments and trains on its share of the batches; rank 0
    writes the files, and the trained student is the same in all.

    Args:
        distiller: student, teachers and objective.
        data: a limbeck data module, or :func:`limbeck.data.from_loaders`.
        epochs: passes over the training split; or give ``steps``.
        steps: number of optimizer steps.
        steps_per_epoch: steps between validations; ``None``: one pass over the training split.
        stop_after_steps: end after this many steps, with the schedules of the full length.
        steps_before: number of steps of the stages before this one.
        total_steps: number of steps of all stages, which ``schedules.across_stages`` reads; 0: unknown.
        training: optimizer, batch size and other settings.
        run_dir: folder for ``metrics.csv``, ``temperatures.csv`` (if a loss has a temperature) and ``checkpoint/``;
            ``None`` writes nothing.
        phase: name of the trained model in files and progress bars.
        stage: name of the stage in files.
        subset: train on ``all`` samples, or on the ``labeled`` ones only.
        seed: for dropout and new projections.
        resume: continue from the checkpoint in ``run_dir``, if there is one.
        fabric: devices, precision and processes; ``None``: :func:`~limbeck.training.make_fabric`.
        callbacks: called in rank 0; ``None``: a progress bar.

    Returns:
        The trained student with its history.

    Raises:
        TrainingDiverged: if a loss or the weights are not finite.
        TrainingInterrupted: on Ctrl-C or SIGTERM, after a checkpoint is written.
    """
    fabric = fabric or make_fabric()
    stream = get_batches(data, training, subset, rank=fabric.global_rank, world_size=fabric.world_size)
    length = compute_training_length(
        stream, epochs, steps, steps_per_epoch, training,
        stop_after_steps=stop_after_steps, steps_before=steps_before, total_steps=total_steps,
    )  # fmt: skip
    state = initialize_state(
        distiller, stream, length, training, fabric, phase=phase, stage=stage, seed=training_seed(seed, phase, stage)
    )
    folder = None if run_dir is None else Path(run_dir)
    if folder is not None:
        state.path = folder / "checkpoint" / f"{phase}.{stage}.pt"
    if resume:
        state.resume()
    all_callbacks = _make_callbacks(callbacks, state, folder)
    with catch_signals() as signals, _run_callbacks(all_callbacks, state):
        loop = _TrainingLoop(state, data, stream, all_callbacks, signals)
        while state.step < length.stop_after_steps and not state.should_stop:
            loop.train_step()
            loop.check_signals_and_clock()
            if loop.should_log:
                loop.log()
            if loop.is_epoch_end:
                loop.end_epoch()
            loop.save_if_due()
    # Rank 0 closes the teachers once all processes have ended: a cache then writes its index.
    if distiller.teachers and fabric.world_size > 1:
        fabric.barrier()
    for teacher in distiller.teachers.values() if fabric.global_rank == 0 else ():
        teacher.close()
    return FitResult(state.finalize(), state.history, state.step, state.seconds, folder)


@final
class _TrainingLoop:
    """The parts of one iteration of :func:`fit`."""

    def __init__(
        self, state: TrainState, data: Any, stream: BatchStream, callbacks: list[Callback], signals: list[int]
    ) -> None:
        self.state, self.data, self.stream, self.callbacks, self.signals = state, data, stream, callbacks, signals
        self.fabric, self.training, self.length = state.fabric, state.training, state.length
        self.accumulator, self.reducer = MetricAccumulator(), MaxReducer(self.fabric)
        self.all_gather = partial(all_gather_object, self.fabric)
        self.should_log = self.is_epoch_end = self.should_save = False
        self.signum, self.start_step = 0, state.step
        self.last_saved = self.last_overdue = time.monotonic()
        self.start_time, self.last_logged = self.last_saved - state.seconds, 0.0
        # Fabric walks through a batch also where it is on its device already, which costs 0.1 ms a step on the CPU.
        self.to_device = (lambda batch: batch) if self.fabric.device.type == "cpu" else self.fabric.to_device
        num_micro = self.training.grad_accum_steps
        self.batches = _iterate_batches(
            stream, state.step * num_micro, self.length.stop_after_steps * num_micro, self.training.num_workers
        )

    def train_step(self) -> None:
        """Run forward and backward of every micro-batch, clip the gradient and update the weights."""
        state, num_micro = self.state, self.training.grad_accum_steps
        # nn.Module.__setattr__ first searches parameters, modules and buffers.
        object.__setattr__(state.distiller, "progress", self.length.progress(state.step))
        for callback in self.callbacks:
            callback.on_step_start(state.step + 1)
        for micro_step in range(1, num_micro + 1):
            syncs = self.fabric.world_size == 1 or micro_step == num_micro
            with nullcontext() if syncs else self.fabric.no_backward_sync(state.model):
                loss: LossOutput = state.model(self.to_device(next(self.batches)))
                for callback in self.callbacks:
                    callback.on_loss(state.step + 1, loss)
                state.backward(loss.total if num_micro == 1 else loss.total / num_micro)
            self.accumulator.update(loss)
        state.step_optimizer()

    def check_signals_and_clock(self) -> None:
        """Decide, the same in every process, what follows this step; raise if a loss is not finite."""
        step, now = self.state.step, time.monotonic()
        is_last = step == self.length.stop_after_steps
        self.is_epoch_end = is_last or step % self.length.steps_per_epoch == 0
        self.should_log = now - self.last_logged > _SECONDS_BETWEEN_LOGS
        overdue = now - max(self.last_saved, self.last_overdue) > self.training.checkpoint_every_seconds
        if overdue:
            self.last_overdue = now
        # The training may end after an epoch, and then no later step would receive the result of this reduction.
        reduce_flags = self.reducer.reduce if self.is_epoch_end else self.reducer.reduce_async
        self.signum, any_overdue = reduce_flags(self.signals[0] if self.signals else 0, int(overdue))
        self.should_save = bool(self.signum or any_overdue) or is_last
        # Clocks differ between processes, so only a single process may check by its clock.
        if self.is_epoch_end or self.should_save or (self.should_log and self.fabric.world_size == 1):
            raise_on_all_ranks(self.fabric, self._nonfinite_loss_error())

    def log(self) -> None:
        """Pass the metrics of the current epoch to callbacks and loggers."""
        self.last_logged = time.monotonic()
        metrics = self._current_metrics(self.accumulator)
        for callback in self.callbacks:
            callback.on_step_end(self.state.step, metrics)
        self._log_values(metrics)

    def end_epoch(self) -> None:
        """Validate, append a row to the history, and pass it to callbacks and loggers."""
        state = self.state
        metrics = self._current_metrics(self.accumulator.reduce(self.all_gather))
        row: MetricsRow = {
            "phase": state.phase, "stage": state.stage, "epoch": math.ceil(state.step / self.length.steps_per_epoch),
            "step": state.step, "seconds": time.monotonic() - self.start_time,
        }  # fmt: skip
        state.sync_buffers()
        validation = run_validation(
            state.eval_model(), self._validation_batches(), state.distiller.task, self.fabric.to_device, self.all_gather
        )
        row |= metrics | validation
        state.end_epoch(row)
        for callback in self.callbacks:
            callback.on_step_end(state.step, metrics | validation)
            callback.on_epoch_end(state.history)
        self.accumulator.reset()
        self._log_values({name: value for name, value in row.items() if isinstance(value, float)})

    def save_if_due(self) -> None:
        """Write a checkpoint if one is due; raise after it if a signal has arrived."""
        state = self.state
        if self.should_save or state.should_stop:
            self.last_saved = time.monotonic()
            state.seconds = self.last_saved - self.start_time
            raise_on_all_ranks(self.fabric, self._nonfinite_weights_error())
            for callback in self.callbacks:
                callback.on_save_checkpoint()
            state.save()
        if self.signum:
            raise TrainingInterrupted(self.signum, state.path, reported=self.fabric.global_rank > 0)

    def _log_values(self, values: MetricsRow) -> None:
        self.fabric.log_dict(
            {f"{self.state.phase}/{name}": value for name, value in values.items()}, step=self.state.step
        )

    def _current_metrics(self, accumulator: MetricAccumulator) -> dict[str, float]:
        metrics = accumulator.compute()
        metrics["lr"] = float(self.state.optimizer.param_groups[0]["lr"])
        metrics["samples_per_second"] = accumulator.num_samples / max(time.monotonic() - accumulator.start_time, 1e-9)
        if self.state.history and "val/accuracy" in self.state.history[-1]:
            metrics["val/accuracy"] = self.state.history[-1]["val/accuracy"]
        return metrics

    def _validation_batches(self) -> Iterator[Any]:
        """The validation batches of this process, with FSDP as many as in every other."""
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        rank_kwargs = {} if world_size == 1 else {"rank": rank, "world_size": world_size}
        batches: Iterator[Any] = self.data.validation_batches(**rank_kwargs)
        return (
            equalize_batches(batches, partial(self.stream.batch, 0), self.all_gather)
            if is_fsdp(self.fabric)
            else batches
        )

    def _nonfinite_loss_error(self) -> TrainingDiverged | None:
        first_nonfinite = self.accumulator.first_nonfinite()
        if first_nonfinite is None:
            return None
        batch_index, names = first_nonfinite
        step = self.start_step + batch_index // self.training.grad_accum_steps
        losses = self.state.distiller.objective.losses
        loss_names = ", ".join(f"{name!r} ({type(losses[name]).__name__})" for name in names)
        return self._diverged(f"the loss is not finite at step {step}: the loss {loss_names} is", step)

    def _nonfinite_weights_error(self) -> TrainingDiverged | None:
        for name, parameter in self.state.distiller.named_parameters():
            if not bool(torch.isfinite(local_shard(parameter)).all()):
                step = self.state.step
                return self._diverged(f"the weights {name!r} are not finite after step {step}", step)
        return None

    def _diverged(self, problem: str, step: int) -> TrainingDiverged:
        path = self.state.path
        exists = path is not None and path.exists()
        checkpoint = f"the last good checkpoint is {path}" if exists else "there is no checkpoint yet"
        advice = "Lower the learning rate, set training.max_grad_norm, or look at the inputs for NaN"
        return TrainingDiverged(f"{problem}; {checkpoint}. {advice}", step=step)


def get_batches(
    data: TrainingData | Any,
    training: TrainingConfig,
    subset: Literal["all", "labeled"] = "all",
    *,
    rank: int = 0,
    world_size: int = 1,
) -> BatchStream:
    """Training batches by index, for process ``rank`` of ``world_size``."""
    batch_size = training.batch_size if training.batch_pairing == "none" else training.batch_size // 2
    stream: BatchStream = data.batches(batch_size=batch_size, subset=subset, rank=rank, world_size=world_size)
    return stream if training.batch_pairing == "none" else pair_batches(stream, training.batch_pairing)


def _make_callbacks(callbacks: Sequence[Callback] | None, state: TrainState, folder: Path | None) -> list[Callback]:
    """Gradient norms in every process, since a gathered loss needs them all; the rest in rank 0."""
    all_callbacks: list[Callback] = []
    if not is_fsdp(state.fabric):
        steps_per_epoch, last_step = state.length.steps_per_epoch, state.length.stop_after_steps
        all_callbacks.append(GradientNorms(state.distiller, steps_per_epoch=steps_per_epoch, last_step=last_step))
    if state.fabric.global_rank == 0:
        all_callbacks += [ProgressBar()] if callbacks is None else callbacks
        if folder is not None:
            names = {"phase": state.phase, "stage": state.stage}
            all_callbacks.append(MetricsCSV(folder / "metrics.csv", **names))
            all_callbacks.append(TemperatureCSV(folder / "temperatures.csv", **names, step=state.step))
    return all_callbacks


@contextmanager
def _run_callbacks(callbacks: list[Callback], state: TrainState) -> Iterator[None]:
    for callback in callbacks:
        callback.on_train_start(title=state.phase, step=state.step, steps=state.length.stop_after_steps)
    try:
        yield
    finally:
        for callback in callbacks:
            callback.on_train_end()


def _iterate_batches(stream: BatchStream, start: int, end: int, num_workers: int) -> Iterator[Any]:
    if not num_workers:
        return map(stream.batch, range(start, end))
    if isinstance(stream, LoaderAdapter):
        raise LimbeckError("training.num_workers is for limbeck's own data: set num_workers on your own loader instead")
    from torch.utils.data import DataLoader

    # An item is a batch that depends on its index only, so workers do not change the result.
    # The loader gets its own generator, since it would otherwise draw from the one of dropout.
    return iter(
        DataLoader(
            _BatchDataset(stream.batch), batch_size=None, sampler=range(start, end), num_workers=num_workers,
            generator=torch.Generator(),
        )
    )  # fmt: skip


@dataclass(frozen=True)
class _BatchDataset(torch.utils.data.Dataset[Any]):
    batch: Callable[[int], Any]

    def __getitem__(self, index: int) -> Any:
        return self.batch(index)
