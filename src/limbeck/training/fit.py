"""The training loop on Lightning Fabric, which provides devices, precision and processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
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
from limbeck.training.checkpoint import TrainingDiverged, TrainingInterrupted, catch_signals, load_checkpoint
from limbeck.training.config import TrainingConfig
from limbeck.training.distributed import MaxReducer, all_gather_object, raise_on_all_ranks
from limbeck.training.fabric import make_fabric
from limbeck.training.fsdp import is_fsdp, local_shard
from limbeck.training.gradient_norms import GradientNorms
from limbeck.training.metric_accumulator import MetricAccumulator, equalize_batches, run_validation
from limbeck.training.seeds import training_seed
from limbeck.training.train_state import TrainingLength, TrainState, compute_training_length, initialize_state

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["FitResult", "TrainingData", "fit", "get_batches"]

_SECONDS_BETWEEN_LOGS = 0.2


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
    state = initialize_state(distiller, stream, length, training, fabric, seed=training_seed(seed, phase, stage))
    folder = None if run_dir is None else Path(run_dir)
    checkpoint_path = None if folder is None else folder / "checkpoint" / f"{phase}.{stage}.pt"
    if resume and checkpoint_path is not None and _checkpoint_exists(checkpoint_path, fabric):
        _restore(state, checkpoint_path)
    all_callbacks = _make_callbacks(callbacks, state, length, folder, phase, stage)
    with catch_signals() as signals, _run_callbacks(all_callbacks, phase, state.step, length.stop_after_steps):
        loop = _TrainingLoop(
            state, data, stream, length, training, all_callbacks, signals, phase, stage, checkpoint_path
        )
        while state.step < length.stop_after_steps and not state.should_stop:
            loop.train_step()
            loop.check_signals_and_clock()
            if loop.should_log:
                loop.log()
            if loop.is_epoch_end:
                loop.end_epoch()
            loop.save_if_due()
    _close_teachers(state.distiller, fabric)
    return FitResult(state.finalize(training), state.history, state.step, state.seconds, folder)


@dataclass(slots=True)
class _TrainingLoop:
    """The parts of one iteration of :func:`fit`."""

    state: TrainState
    data: Any
    stream: BatchStream
    length: TrainingLength
    training: TrainingConfig
    callbacks: list[Callback]
    signals: list[int]
    phase: str
    stage: str
    checkpoint_path: Path | None
    accumulator: MetricAccumulator = field(default_factory=MetricAccumulator)
    should_log: bool = False
    is_epoch_end: bool = False
    should_save: bool = False
    signum: int = 0
    fabric: Any = field(init=False)
    batches: Iterator[Any] = field(init=False)
    to_device: Callable[[Any], Any] = field(init=False)
    reducer: MaxReducer = field(init=False)
    start_step: int = field(init=False)
    start_time: float = field(init=False)
    last_saved: float = field(init=False)
    last_overdue: float = 0.0
    last_logged: float = 0.0

    def __post_init__(self) -> None:
        self.fabric, self.start_step = self.state.fabric, self.state.step
        self.reducer = MaxReducer(self.fabric)
        self.last_saved = time.monotonic()
        self.start_time = self.last_saved - self.state.seconds
        # Fabric walks through a batch also where it is on its device already, which costs 0.1 ms a step on the CPU.
        self.to_device = (lambda batch: batch) if self.fabric.device.type == "cpu" else self.fabric.to_device
        num_micro = self.training.grad_accum_steps
        self.batches = _iterate_batches(
            self.stream,
            self.start_step * num_micro,
            self.length.stop_after_steps * num_micro,
            self.training.num_workers,
        )

    def train_step(self) -> None:
        """Run forward and backward of every micro-batch, clip the gradient and update the weights."""
        state, training = self.state, self.training
        # nn.Module.__setattr__ first searches parameters, modules and buffers.
        object.__setattr__(state.distiller, "progress", self.length.progress(state.step))
        for callback in self.callbacks:
            callback.on_step_start(state.step + 1)
        for micro_step in range(1, training.grad_accum_steps + 1):
            syncs = self.fabric.world_size == 1 or micro_step == training.grad_accum_steps
            with nullcontext() if syncs else self.fabric.no_backward_sync(state.model):
                loss: LossOutput = state.model(self.to_device(next(self.batches)))
                for callback in self.callbacks:
                    callback.on_loss(state.step + 1, loss)
                state.backward(loss.total if training.grad_accum_steps == 1 else loss.total / training.grad_accum_steps)
            self.accumulator.update(loss)
        if training.max_grad_norm is not None:
            self.fabric.clip_gradients(
                state.model, state.optimizer, max_norm=training.max_grad_norm, error_if_nonfinite=False
            )
        state.step_optimizer(training)

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
        # Clocks differ between processes, so only one process alone may check by its clock.
        if self.is_epoch_end or self.should_save or (self.should_log and self.fabric.world_size == 1):
            raise_on_all_ranks(self.fabric, self._nonfinite_loss_error())

    def log(self) -> None:
        """Pass the metrics of the current epoch to callbacks and loggers."""
        self.last_logged = time.monotonic()
        metrics = self._current_metrics(self.accumulator)
        for callback in self.callbacks:
            callback.on_step_end(self.state.step, metrics)
        self.fabric.log_dict({f"{self.phase}/{name}": value for name, value in metrics.items()}, step=self.state.step)

    def end_epoch(self) -> None:
        """Validate, append a row to the history, and pass it to callbacks and loggers."""
        state, all_gather = self.state, partial(all_gather_object, self.fabric)
        metrics = self._current_metrics(self.accumulator.reduce(all_gather))
        row = {
            "phase": self.phase, "stage": self.stage, "epoch": math.ceil(state.step / self.length.steps_per_epoch),
            "step": state.step, "seconds": time.monotonic() - self.start_time,
        }  # fmt: skip
        state.sync_buffers()
        batches = _validation_batches(self.data, self.stream, self.fabric)
        validation = run_validation(
            state.eval_model(), batches, state.distiller.task, self.fabric.to_device, all_gather
        )
        row |= metrics | validation
        state.end_epoch(row, self.training)
        for callback in self.callbacks:
            callback.on_step_end(state.step, metrics | validation)
            callback.on_epoch_end(state.history)
        self.accumulator.reset()
        values = {f"{self.phase}/{name}": value for name, value in row.items() if isinstance(value, float)}
        self.fabric.log_dict(values, step=state.step)

    def save_if_due(self) -> None:
        """Write a checkpoint if one is due; raise after it if a signal has arrived."""
        if self.should_save or self.state.should_stop:
            self.last_saved = time.monotonic()
            self.state.seconds = self.last_saved - self.start_time
            raise_on_all_ranks(self.fabric, self._nonfinite_weights_error())
            for callback in self.callbacks:
                callback.on_save_checkpoint()
            self.state.save(self.checkpoint_path)
        if self.signum:
            raise TrainingInterrupted(self.signum, self.checkpoint_path, reported=self.fabric.global_rank > 0)

    def _current_metrics(self, accumulator: MetricAccumulator) -> dict[str, float]:
        metrics = accumulator.compute()
        metrics["lr"] = float(self.state.optimizer.param_groups[0]["lr"])
        metrics["samples_per_second"] = accumulator.num_samples / max(time.monotonic() - accumulator.start_time, 1e-9)
        if self.state.history and "val/accuracy" in self.state.history[-1]:
            metrics["val/accuracy"] = self.state.history[-1]["val/accuracy"]
        return metrics

    def _nonfinite_loss_error(self) -> TrainingDiverged | None:
        first_nonfinite = self.accumulator.first_nonfinite()
        if first_nonfinite is None:
            return None
        batch_index, names = first_nonfinite
        step = self.start_step + batch_index // self.training.grad_accum_steps
        losses = self.state.distiller.objective.losses
        loss_names = ", ".join(f"{name!r} ({type(losses[name]).__name__})" for name in names)
        message = f"the loss is not finite at step {step}: the loss {loss_names} is; {self._recovery_advice()}"
        return TrainingDiverged(message, step=step)

    def _nonfinite_weights_error(self) -> TrainingDiverged | None:
        for name, parameter in self.state.distiller.named_parameters():
            if not bool(torch.isfinite(local_shard(parameter)).all()):
                step = self.state.step
                message = f"the weights {name!r} are not finite after step {step}; {self._recovery_advice()}"
                return TrainingDiverged(message, step=step)
        return None

    def _recovery_advice(self) -> str:
        path = self.checkpoint_path
        exists = path is not None and path.exists()
        checkpoint = f"the last good checkpoint is {path}" if exists else "there is no checkpoint yet"
        return f"{checkpoint}. Lower the learning rate, set training.max_grad_norm, or look at the inputs for NaN"


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


def _make_callbacks(
    callbacks: Sequence[Callback] | None,
    state: TrainState,
    length: TrainingLength,
    folder: Path | None,
    phase: str,
    stage: str,
) -> list[Callback]:
    """Gradient norms in every process, since a gathered loss needs them all; the rest in rank 0."""
    all_callbacks: list[Callback] = []
    if not is_fsdp(state.fabric):
        all_callbacks.append(
            GradientNorms(state.distiller, steps_per_epoch=length.steps_per_epoch, last_step=length.stop_after_steps)
        )
    if state.fabric.global_rank == 0:
        all_callbacks += [ProgressBar()] if callbacks is None else callbacks
        if folder is not None:
            all_callbacks.append(MetricsCSV(folder / "metrics.csv", phase=phase, stage=stage))
            all_callbacks.append(TemperatureCSV(folder / "temperatures.csv", phase=phase, stage=stage, step=state.step))
    return all_callbacks


@contextmanager
def _run_callbacks(callbacks: list[Callback], title: str, step: int, steps: int) -> Iterator[None]:
    for callback in callbacks:
        callback.on_train_start(title=title, step=step, steps=steps)
    try:
        yield
    finally:
        for callback in callbacks:
            callback.on_train_end()


def _close_teachers(distiller: Distiller, fabric: Fabric) -> None:
    """Close the teachers in rank 0 once all processes have ended: a cache then writes its index."""
    if distiller.teachers and fabric.world_size > 1:
        fabric.barrier()
    if fabric.global_rank == 0:
        for teacher in distiller.teachers.values():
            teacher.close()


def _iterate_batches(stream: BatchStream, start: int, end: int, num_workers: int) -> Iterator[Any]:
    if not num_workers:
        return (stream.batch(index) for index in range(start, end))
    if isinstance(stream, LoaderAdapter):
        raise LimbeckError("training.num_workers is for limbeck's own data: set num_workers on your own loader instead")
    from torch.utils.data import DataLoader

    # An item is a batch that depends on its index only, so workers do not change the result.
    # The loader gets its own generator, since it would otherwise draw from the one of dropout.
    return iter(
        DataLoader(
            _BatchDataset(stream), batch_size=None, sampler=range(start, end), num_workers=num_workers,
            generator=torch.Generator(),
        )
    )  # fmt: skip


@dataclass(frozen=True)
class _BatchDataset(torch.utils.data.Dataset[Any]):
    stream: BatchStream

    def __getitem__(self, index: int) -> Any:
        return self.stream.batch(index)


def _validation_batches(data: Any, stream: BatchStream, fabric: Fabric) -> Iterator[Any]:
    """The validation batches of this process, with FSDP as many as in every other."""
    rank_kwargs = {} if fabric.world_size == 1 else {"rank": fabric.global_rank, "world_size": fabric.world_size}
    batches: Iterator[Any] = data.validation_batches(**rank_kwargs)
    if not is_fsdp(fabric):
        return batches
    return equalize_batches(batches, partial(stream.batch, 0), partial(all_gather_object, fabric))


def _checkpoint_exists(path: Path, fabric: Fabric) -> bool:
    exists = all_gather_object(fabric, path.exists())
    if len(set(exists)) > 1:
        raise LimbeckError(
            f"the checkpoint {path} must exist for all processes, and is missing for process {exists.index(False)}: "
            "put the run folder on a file system that all machines share"
        )
    return exists[0]


def _restore(state: TrainState, path: Path) -> None:
    try:
        state.restore(load_checkpoint(path), path)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, LimbeckError):
            raise
        raise LimbeckError(
            f"the checkpoint {path} lacks what a training needs ({type(error).__name__}: {str(error)[:80]!r}): "
            "remove it to begin this stage again, or put a copy back"
        ) from error
