"""The training loop, as one readable function on Lightning Fabric: devices, precision and processes come from there."""

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
from limbeck.training import checkpoint as saved
from limbeck.training.callbacks import Callback, MetricsCSV, MetricsRow, ProgressBar
from limbeck.training.checkpoint import TrainingDiverged, TrainingInterrupted
from limbeck.training.config import TrainingConfig
from limbeck.training.distributed import MaxReducer, all_gather_object, make_fabric, raise_on_all_ranks
from limbeck.training.fsdp import is_fsdp, local_shard
from limbeck.training.gradient_norms import compute_gradient_metrics, is_measurement_step
from limbeck.training.metric_accumulator import MetricAccumulator, equalize_batches, run_validation
from limbeck.training.seeds import training_seed
from limbeck.training.temperature_log import TemperatureCSV
from limbeck.training.train_state import TrainState, initialize_state
from limbeck.training.train_state import compute_training_length as make_plan

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["FitResult", "TrainingData", "fit", "get_batches", "make_single_device_fabric"]


class TrainingData(Protocol):
    """What gives batches: limbeck's data, or a user's loaders."""

    def batches(self, *, batch_size: int, subset: Literal["all", "labeled"], rank: int, world_size: int) -> BatchStream:
        """Training batches by number."""
        ...

    def validation_batches(self) -> Iterator[Any]:
        """The validation part; with several processes, ``rank`` and ``world_size`` ask for a share of its batches."""
        ...


@final
@dataclass(slots=True)
class FitResult:
    """A training that ended.

    Attributes:
        student: the trained network, in eval mode, with the weights that were to be kept.
        history: one row for each epoch, as in ``metrics.csv``.
        steps: optimizer steps done.
        seconds: time spent, over all resumed pieces.
        run_dir: where its files are, or ``None``.
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

    On a CPU this process keeps from now on what it frees, see :func:`~limbeck.core.memory.keep_freed_memory`.

    Arguments:
        distiller: student, teachers and objective.
        data: limbeck's :class:`~limbeck.data.DataModule`, or :func:`limbeck.data.from_loaders` of your own.
        epochs: how often to show every picture; or give ``steps``.
        steps: how many optimizer steps to make; an epoch is then still one round of the pictures.
        steps_per_epoch: after how many steps to validate and count an epoch; ``None``: when all were shown once.
        stop_after_steps: end after so many steps, with the schedules of the full length; ``None``: at the full length.
        steps_before: in a training of several stages, the steps of those before this one.
        total_steps: the steps of all stages together, which ``schedules.across_stages`` reads; 0: not known.
        training: optimizer, batch and the like.
        run_dir: the run folder; gets ``metrics.csv``, ``temperatures.csv`` where a term has a temperature, and
            ``checkpoint/``. ``None`` writes nothing.
        phase: whose training this is, in files and bars.
        stage: which of its stages, in files and bars.
        subset: train on ``all`` samples, or only on the ``labeled`` ones.
        seed: of whatever is drawn from torch's generators (dropout, new projections).
        resume: go on from the checkpoint in ``run_dir``, if there is one.
        fabric: devices, precision, processes; ``None``: float32 on the processes that ``torchrun`` started, and without
            it on one device, the best there is.
        callbacks: who is told how it goes; ``None``: a progress bar.

    With several processes, each calls this alike with its own share of the pictures; the first one writes. The student
    comes out the same in all of them.

    Raises :class:`TrainingDiverged` when the loss is not finite, and :class:`TrainingInterrupted`, after saving, on Ctrl-C or SIGTERM.
    """
    fabric = fabric or make_fabric()
    stream = get_batches(data, training, subset, rank=fabric.global_rank, world_size=fabric.world_size)
    length = make_plan(
        stream,
        epochs,
        steps,
        steps_per_epoch,
        training,
        stop_after_steps=stop_after_steps,
        steps_before=steps_before,
        total_steps=total_steps,
    )
    state = initialize_state(distiller, stream, length, training, fabric, seed=training_seed(seed, phase, stage))
    folder = None if run_dir is None else Path(run_dir)
    checkpoint_path = None if folder is None else folder / "checkpoint" / f"{phase}.{stage}.pt"
    distiller = state.distiller
    if resume and checkpoint_path is not None and _checkpoint_exists(checkpoint_path, fabric):
        try:
            state.restore(saved.load_checkpoint(checkpoint_path), checkpoint_path)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise LimbeckError(
                f"the checkpoint {checkpoint_path} lacks what a training needs ({type(error).__name__}: {str(error)[:80]!r}): "
                "remove it to begin this stage again, or put a copy back"
            ) from error
    active_callbacks: list[Callback] = (
        [] if fabric.global_rank else list([ProgressBar()] if callbacks is None else callbacks)
    )
    if folder is not None and not fabric.global_rank:
        active_callbacks.append(MetricsCSV(folder / "metrics.csv", phase=phase, stage=stage))
        temperature_csv = TemperatureCSV(folder / "temperatures.csv", phase=phase, stage=stage, step=state.step)
    else:
        temperature_csv = None

    with saved.catch_signals() as signals, _run_callbacks(active_callbacks, phase, state.step, length.stop_after_steps):
        accumulator, reducer = MetricAccumulator(), MaxReducer(fabric)
        last_saved, last_overdue, last_update = time.monotonic(), 0.0, 0.0
        batches = _iterate_batches(
            stream,
            state.step * training.grad_accum_steps,
            length.stop_after_steps * training.grad_accum_steps,
            training.num_workers,
        )
        # Walking through a batch to move it nowhere would be a tenth of a millisecond a step.
        to_device: Callable[[Any], Any] = fabric.to_device if fabric.device.type != "cpu" else lambda batch: batch
        is_distributed, elapsed_seconds, start_step = fabric.world_size > 1, state.start_clock(), state.step
        gradient_metrics: dict[str, float] = {}
        all_gather = partial(all_gather_object, fabric)
        while state.step < length.stop_after_steps and not state.should_stop:
            # Not by nn.Module, which would look each step whether it is a parameter, a module or a buffer.
            object.__setattr__(distiller, "progress", length.progress(state.step))
            measures_gradients = is_measurement_step(
                state.step + 1, steps_per_epoch=length.steps_per_epoch, last_step=length.stop_after_steps
            ) and not is_fsdp(fabric)
            for micro_step in range(training.grad_accum_steps):
                with (
                    fabric.no_backward_sync(state.model)
                    if is_distributed and micro_step + 1 < training.grad_accum_steps
                    else nullcontext()
                ):
                    loss: LossOutput = _compute_loss(
                        state,
                        to_device(next(batches)),
                        gradient_metrics,
                        measures_gradients=measures_gradients and not micro_step,
                    )
                    state.backward(
                        loss.total / training.grad_accum_steps if training.grad_accum_steps > 1 else loss.total
                    )
                accumulator.update(loss)
                if temperature_csv is not None and loss.temperatures:
                    temperature_csv.add(state.step + 1, loss.temperatures)
            if training.max_grad_norm is not None:
                fabric.clip_gradients(
                    state.model, state.optimizer, max_norm=training.max_grad_norm, error_if_nonfinite=False
                )
            state.step_optimizer(training)

            now = time.monotonic()
            epoch_ended = state.step % length.steps_per_epoch == 0 or state.step == length.stop_after_steps
            if overdue := now - max(last_saved, last_overdue) > training.checkpoint_every_seconds:
                last_overdue = now
            reduce_flags = (
                reducer.reduce if epoch_ended else reducer.reduce_async
            )  # after an epoch it may be over, and nobody asks again
            signum, any_overdue = reduce_flags(signals[0] if signals else 0, int(overdue))
            should_save = signum or any_overdue or state.step == length.stop_after_steps
            should_update = now - last_update > 0.2
            # By the clock of one process alone, the others would not know of it.
            if epoch_ended or should_save or (should_update and not is_distributed):
                raise_on_all_ranks(
                    fabric,
                    _nonfinite_loss_error(
                        accumulator.first_nonfinite(), distiller, start_step, training, checkpoint_path
                    ),
                )
            if should_update:
                last_update = now
                metrics = _current_metrics(accumulator, state)
                for callback in active_callbacks:
                    callback.on_step_end(state.step, metrics)
                fabric.log_dict({f"{phase}/{name}": value for name, value in metrics.items()}, step=state.step)
            if epoch_ended:
                row = {"phase": phase, "stage": stage, "epoch": math.ceil(state.step / length.steps_per_epoch)}
                global_accumulator = accumulator.reduce(all_gather)
                row |= {
                    "step": state.step,
                    "seconds": elapsed_seconds(),
                    **_current_metrics(global_accumulator, state),
                    **gradient_metrics,
                }
                gradient_metrics.clear()
                state.sync_buffers()
                row |= run_validation(
                    state.eval_model(),
                    _validation_batches(data, stream, fabric),
                    distiller.task,
                    fabric.to_device,
                    all_gather,
                )
                state.end_epoch(row, training)
                if temperature_csv is not None:
                    temperature_csv.write()
                for callback in active_callbacks:
                    callback.on_step_end(state.step, _current_metrics(global_accumulator, state))
                    callback.on_epoch_end(state.history)
                accumulator.reset()
                fabric.log_dict({f"{phase}/{k}": v for k, v in row.items() if isinstance(v, float)}, step=state.step)
            if should_save or state.should_stop:
                last_saved = now
                state.seconds = elapsed_seconds()
                raise_on_all_ranks(fabric, _nonfinite_weights_error(distiller, state, checkpoint_path))
                if temperature_csv is not None:
                    temperature_csv.write()
                state.save(checkpoint_path)
            if signum:
                raise TrainingInterrupted(signum, checkpoint_path, reported=fabric.global_rank > 0)
    _close_teachers(distiller, fabric)
    return FitResult(state.finalize(training), state.history, state.step, state.seconds, folder)


def _compute_loss(
    state: TrainState, batch: Any, gradient_metrics: dict[str, float], *, measures_gradients: bool
) -> LossOutput:
    """The loss of ``batch``; where it is time to, the gradient norm of each loss comes into ``gradient_metrics``."""
    if not measures_gradients:
        loss: LossOutput = state.model(batch)
        return loss
    state.distiller.objective.collect_diagnostics = True
    try:
        loss = state.model(batch)
    finally:
        state.distiller.objective.collect_diagnostics = False
    gradient_metrics |= compute_gradient_metrics(state.distiller, loss)
    return loss


def get_batches(
    data: TrainingData | Any,
    training: TrainingConfig,
    subset: Literal["all", "labeled"] = "all",
    *,
    rank: int = 0,
    world_size: int = 1,
) -> BatchStream:
    """The batches of a training by number, for one of ``world_size`` processes."""
    batch_size = training.batch_size if training.batch_pairing == "none" else training.batch_size // 2
    stream: BatchStream = data.batches(batch_size=batch_size, subset=subset, rank=rank, world_size=world_size)
    return stream if training.batch_pairing == "none" else pair_batches(stream, training.batch_pairing)


def _close_teachers(distiller: Distiller, fabric: Fabric) -> None:
    """Close the teachers once all processes are done: a cache then writes its index."""
    if distiller.teachers and fabric.world_size > 1:
        fabric.barrier()
    if not fabric.global_rank:
        for teacher in distiller.teachers.values():
            teacher.close()


def _iterate_batches(stream: BatchStream, start: int, end: int, num_workers: int) -> Iterator[Any]:
    if num_workers and isinstance(stream, LoaderAdapter):
        raise LimbeckError("training.num_workers is for limbeck's own data: set num_workers on your own loader instead")
    if not num_workers:
        return (stream.batch(step) for step in range(start, end))
    from torch.utils.data import DataLoader

    # Each item is a whole batch and depends on its number only, so workers change nothing but the speed.
    # Without a generator of its own, the loader would draw from the one that dropout draws from.
    loader = DataLoader(
        _BatchDataset(stream),
        batch_size=None,
        sampler=range(start, end),
        num_workers=num_workers,
        generator=torch.Generator(),
    )
    return iter(loader)


@dataclass(frozen=True)
class _BatchDataset(torch.utils.data.Dataset[Any]):
    stream: BatchStream

    def __getitem__(self, step: int) -> Any:
        return self.stream.batch(step)


def _validation_batches(data: Any, stream: BatchStream, fabric: Fabric) -> Iterator[Any]:
    """The part of the validation part that this process measures."""
    rank_kwargs = {} if fabric.world_size == 1 else {"rank": fabric.global_rank, "world_size": fabric.world_size}
    batches: Iterator[Any] = data.validation_batches(**rank_kwargs)
    return (
        equalize_batches(batches, partial(stream.batch, 0), partial(all_gather_object, fabric))
        if is_fsdp(fabric)
        else batches
    )


def _checkpoint_exists(path: Path, fabric: Fabric) -> bool:
    """Whether there is a checkpoint; all processes have to see the same."""
    exists = all_gather_object(fabric, path.exists())
    if len(set(exists)) > 1:
        raise LimbeckError(
            f"the checkpoint {path} is there for some processes and not for process {exists.index(False)}: put the run "
            "folder on a file system that all machines share"
        )
    return exists[0]


def _current_metrics(accumulator: MetricAccumulator, state: TrainState) -> dict[str, float]:
    metrics = accumulator.compute()
    metrics["lr"] = float(state.optimizer.param_groups[0]["lr"])
    metrics["samples_per_second"] = accumulator.num_samples / max(time.monotonic() - accumulator.start_time, 1e-9)
    if state.history and "val/accuracy" in state.history[-1]:
        metrics["val/accuracy"] = state.history[-1]["val/accuracy"]
    return metrics


def _nonfinite_loss_error(
    first_nonfinite: tuple[int, list[str]] | None,
    distiller: Distiller,
    start_step: int,
    training: TrainingConfig,
    path: Path | None,
) -> TrainingDiverged | None:
    if first_nonfinite is None:
        return None
    step = start_step + first_nonfinite[0] // training.grad_accum_steps
    loss_names = ", ".join(
        f"{name!r} ({type(distiller.objective.losses[name]).__name__})" for name in first_nonfinite[1]
    )
    return TrainingDiverged(
        f"the loss is not finite at step {step}: the loss {loss_names} is; {_recovery_advice(path)}", step=step
    )


def _nonfinite_weights_error(distiller: Distiller, state: TrainState, path: Path | None) -> TrainingDiverged | None:
    for name, parameter in distiller.named_parameters():
        if not bool(torch.isfinite(local_shard(parameter)).all()):
            message = f"the weights {name!r} are not finite after step {state.step}; {_recovery_advice(path)}"
            return TrainingDiverged(message, step=state.step)
    return None


def _recovery_advice(path: Path | None) -> str:
    checkpoint = (
        f"the last good checkpoint is {path}" if path is not None and path.exists() else "there is no checkpoint yet"
    )
    return f"{checkpoint}. Lower the learning rate, set training.max_grad_norm, or look at the inputs for NaN"


@contextmanager
def _run_callbacks(callbacks: list[Callback], title: str, step: int, steps: int) -> Iterator[None]:
    """Tells the watchers of the beginning and of the end, whatever happens between."""
    for callback in callbacks:
        callback.on_train_start(title=title, step=step, steps=steps)
    try:
        yield
    finally:
        for callback in callbacks:
            callback.on_train_end()


def make_single_device_fabric(*, precision: Any = "32-true", loggers: Sequence[Any] = ()) -> Fabric:
    """A Fabric for the best single device there is, also where ``torchrun`` started several processes.

    Arguments:
        precision: one of Fabric's, such as ``bf16-mixed``.
        loggers: from :func:`~limbeck.training.callbacks.make_logger`, or Fabric's own.
    """
    from lightning_fabric import Fabric

    from limbeck.training.precision import make_precision_kwargs

    return Fabric(accelerator="auto", devices=1, loggers=list(loggers), **make_precision_kwargs(precision))
