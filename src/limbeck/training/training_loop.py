"""The parts of one iteration of a training: step, log, validation, checkpoint."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch

from limbeck.core.errors import LimbeckError
from limbeck.data.batch_sampler import BatchStream
from limbeck.data.loader_adapter import LoaderAdapter
from limbeck.distiller.objective import LossOutput
from limbeck.training.callbacks import Callback, MetricsRow
from limbeck.training.checkpoint import TrainingDiverged, TrainingInterrupted
from limbeck.training.distributed import MaxReducer, all_gather_object, raise_on_all_ranks
from limbeck.training.epoch_validation import require_same_validation, validate_epoch
from limbeck.training.fsdp import local_shard
from limbeck.training.metric_accumulator import MetricAccumulator
from limbeck.training.train_state import TrainState
from limbeck.training.training_checks import DivergenceCheck, require_gradient
from limbeck.utils.count_samples import count_samples

__all__ = ["TrainingLoop"]

_SECONDS_BETWEEN_LOGS = 0.5


@final
class TrainingLoop:
    """The parts of one iteration of :func:`fit`."""

    def __init__(self, state: TrainState, data: Any, callbacks: list[Callback], signals: list[int]) -> None:
        self.state, self.data, self.callbacks, self.signals = state, data, callbacks, signals
        self.fabric, self.training, self.length = state.fabric, state.training, state.length
        self.divergence = DivergenceCheck()
        self.accumulator, self.reducer = state.accumulator, MaxReducer(self.fabric)
        self.all_gather = partial(all_gather_object, self.fabric)
        self.should_log = self.is_epoch_end = self.should_save = False
        self.signum, self.start_step = 0, state.step
        self.last_saved = self.last_overdue = time.monotonic()
        self.start_time, self.last_logged = self.last_saved - state.seconds, 0.0
        # Fabric walks through a batch also where it is on its device already, which costs 0.1 ms a step on the CPU.
        self.to_device = (lambda batch: batch) if self.fabric.device.type == "cpu" else self.fabric.to_device
        num_micro = self.training.grad_accum_steps
        self.batches = _iterate_batches(
            state.stream, state.step * num_micro, self.length.stop_after_steps * num_micro, self.training.num_workers
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
                batch = self.to_device(next(self.batches))
                loss: LossOutput = state.model(batch)
                require_gradient(loss.total, state.distiller)
                for callback in self.callbacks:
                    callback.on_loss(state.step + 1, loss)
                state.backward(loss.total if num_micro == 1 else loss.total / num_micro)
            self.divergence.update(loss)
            self.accumulator.update(loss, count_samples(batch))
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
        last_row = self.state.history[-1] if self.state.history else {}
        shown = metrics | {name: value for name, value in last_row.items() if name.startswith("val/")}
        for callback in self.callbacks:
            callback.on_step_end(self.state.step, shown)
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
        validation = validate_epoch(self.data, state)
        require_same_validation(validation, state.history, state.monitored_metrics)
        warning = None if state.warnings else self.divergence.check(metrics)
        if warning is not None:
            state.warnings.append(f"{state.phase}: {warning}")
            if self.fabric.global_rank == 0:
                warnings.warn(state.warnings[-1], stacklevel=2)
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
        return metrics

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
        if self.fabric.strategy.precision.precision == "16-true":
            advice = "Set precision to bf16-true or 16-mixed: float16 has no values above 65504, nor below 6e-8"
        return TrainingDiverged(f"{problem}; {checkpoint}. {advice}", step=step)


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
