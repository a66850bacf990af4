"""The state of a training: optimizer steps, checkpoints, and the weights to keep."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.task import EvaluableTask
from limbeck.data.batch_sampler import BatchStream
from limbeck.data.loader_adapter import LoaderAdapter
from limbeck.distiller.deployment import deployment_model
from limbeck.distiller.distiller import Distiller
from limbeck.training.callbacks import MetricsRow
from limbeck.training.checkpoint import checkpoint_error, load_checkpoint, save_checkpoint
from limbeck.training.config import TrainingConfig
from limbeck.training.distributed import all_gather_object, raise_on_all_ranks
from limbeck.training.fsdp import gather_full_state, load_full_optimizer_state, load_full_weights
from limbeck.training.metric_accumulator import MetricAccumulator
from limbeck.training.training_length import TrainingLength
from limbeck.utils.random_states import get_rng_states, set_rng_states

__all__ = ["TrainState"]


@final
@dataclass(slots=True, kw_only=True)
class TrainState:
    """The state that a checkpoint saves and restores.

    Attributes:
        original: the caller's distiller.
        distiller: the trained one, a sharded copy with FSDP.
        model: the distiller in Fabric's wrapper, where that has an effect.
        settings: what a checkpoint must have in common with the training that resumes it.
        stream: the training batches; a :class:`~limbeck.data.loader_adapter.LoaderAdapter` has a state.
        padding_batch: a batch for forward passes that do not count, with FSDP.
        path: the checkpoint, or ``None`` to save none.
        is_verified: whether a checkpoint of this training has been read back.
        accumulator: metrics of the epoch so far, in this process.
        best: metric, epoch and weights of the best epoch.
        warnings: of a loss that diverged.
    """

    training: TrainingConfig
    length: TrainingLength
    phase: str
    stage: str
    original: Distiller
    distiller: Distiller
    model: Any
    backward: Callable[[Tensor], Any]
    optimizer: Any
    scheduler: Any
    fabric: Any
    ema_model: Any
    settings: dict[str, Any]
    stream: BatchStream
    padding_batch: Any = None
    path: Path | None = None
    is_verified: bool = False
    accumulator: MetricAccumulator = field(default_factory=MetricAccumulator)
    step: int = 0
    seconds: float = 0.0
    history: list[MetricsRow] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    should_stop: bool = False
    warnings: list[str] = field(default_factory=list)

    def step_optimizer(self) -> None:
        """Clip the gradient, and update the weights, the learning rate and the averaged weights."""
        if self.training.max_grad_norm is not None:
            self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.training.max_grad_norm, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.scheduler is not None and self.training.scheduler_interval == "step":
            self.scheduler.step()
        if self.ema_model is not None:
            self.ema_model.update_parameters(self.distiller.student)

    def eval_model(self) -> nn.Module:
        """The network to validate: the deployed one, or the averaged weights."""
        network: nn.Module = deployment_model(self.distiller) if self.ema_model is None else self.ema_model.module
        return network

    @property
    def monitored_metrics(self) -> tuple[MetricSpec, ...]:
        """Metrics that are validated after each epoch; the first selects the best epoch."""
        task = self.distiller.task
        return tuple(task.monitored_metrics) if isinstance(task, EvaluableTask) else ()

    def end_epoch(self, row: MetricsRow) -> None:
        """Append ``row``, step an epoch scheduler, keep the best weights, and decide on early stopping."""
        self.history.append(row)
        if self.scheduler is not None and self.training.scheduler_interval == "epoch":
            plateau = isinstance(self.scheduler, ReduceLROnPlateau)
            self.scheduler.step(row[f"val/{self.monitored_metrics[-1].name}"]) if plateau else self.scheduler.step()
        if self._is_best(row):
            self.best = {"value": row[f"val/{self.monitored_metrics[0].name}"], "epoch": row["epoch"]}
            if self.training.keep_weights == "best":
                weights = gather_full_state(self.eval_model().state_dict())
                self.best["student"] = {n: t.detach().cpu().clone() for n, t in weights.items()}
        patience = self.training.early_stopping_patience
        if patience is not None:
            self.should_stop = row["epoch"] - self.best.get("epoch", 0) >= patience

    def _is_best(self, row: MetricsRow) -> bool:
        """Whether the first monitored metric is better than in every epoch before; NaN never is."""
        if not self.monitored_metrics:
            return False
        metric = self.monitored_metrics[0]
        value = row.get(f"val/{metric.name}", math.nan)
        return not math.isnan(value) and (not self.best or metric.sign * (value - self.best["value"]) > 0)

    def sync_buffers(self) -> None:
        """Copy the buffers of rank 0, such as BatchNorm statistics, to all processes."""
        if self.fabric.world_size > 1:
            for buffer in self.eval_model().buffers():
                dist.broadcast(buffer, 0)
            all_gather_object(self.fabric, None)

    def save(self) -> None:
        """Write a checkpoint in rank 0; a collective call, since a full state is gathered."""
        if self.path is None:
            return
        state = {
            "settings": self.settings,
            "step": self.step, "seconds": self.seconds, "history": self.history, "best": self.best,
            "should_stop": self.should_stop, "warnings": self.warnings,
            "student": gather_full_state(self.distiller.student.state_dict()),
            "losses": gather_full_state(self.distiller.objective.state_dict()),
            "teachers": {name: teacher.state_dict() for name, teacher in self.distiller.teachers.items()},
            "optimizer": gather_full_state(self.optimizer.state_dict()),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "ema_model": None if self.ema_model is None else self.ema_model.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "random": all_gather_object(self.fabric, get_rng_states()),
            "epoch_metrics": all_gather_object(self.fabric, self.accumulator.state_dict()),
        }  # fmt: skip
        if isinstance(self.stream, LoaderAdapter):
            state["data"] = all_gather_object(self.fabric, self.stream.state_dict())
        error: LimbeckError | None = None
        if not self.fabric.global_rank:
            save_checkpoint(self.path, state)
            error = None if self.is_verified else checkpoint_error(self.path, state)
        if not self.is_verified:
            raise_on_all_ranks(self.fabric, error)
            self.is_verified = True
        self.sync_buffers()

    def resume(self) -> None:
        """Load the checkpoint, if there is one; refuse one with other settings."""
        path = self.path
        if path is None:
            return
        exists = all_gather_object(self.fabric, path.exists())
        if len(set(exists)) > 1:
            raise LimbeckError(
                f"the checkpoint {path} must exist for all processes, and is missing for process "
                f"{exists.index(False)}: put the run folder on a file system that all machines share"
            )
        if not exists[0]:
            return
        state = load_checkpoint(path)
        try:
            self._restore(state, path)
        except LimbeckError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise LimbeckError(
                f"the checkpoint {path} lacks what a training needs ({type(error).__name__}: {str(error)[:80]!r}): "
                "remove it to begin this stage again, or put a copy back"
            ) from error

    def _restore(self, state: dict[str, Any], path: Path) -> None:
        for name, value in self.settings.items():
            if _normalize_setting(state["settings"].get(name)) != _normalize_setting(value):
                raise LimbeckError(
                    f"{path} was written by another training: its {name} was {state['settings'].get(name)!r} "
                    f"and is now {value!r}; resume with the settings it was begun with, or choose another folder"
                )
        _require_progress(state, num_steps=self.length.stop_after_steps)
        self.step, self.seconds, self.should_stop = state["step"], state["seconds"], state["should_stop"]
        self.history, self.best = state["history"], state["best"]
        self.warnings = state.get("warnings", [])  # older checkpoints have none
        if "accuracy" in self.best:  # an older checkpoint
            self.best["value"] = self.best.pop("accuracy")
        load_full_weights(self.distiller.student, state["student"])
        load_full_weights(self.distiller.objective, state["losses"])
        for name, teacher in self.distiller.teachers.items():
            teacher.load_state_dict(state["teachers"][name])
        load_full_optimizer_state(self.optimizer, state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.ema_model is not None:
            self.ema_model.load_state_dict(state["ema_model"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        rank = self.fabric.global_rank
        if "epoch_metrics" in state:  # older checkpoints have none
            self.accumulator.load_state_dict(state["epoch_metrics"][rank])
        if isinstance(self.stream, LoaderAdapter) and "data" in state:
            self.stream.load_state_dict(state["data"][rank])
        set_rng_states(state["random"][rank])

    def finalize(self) -> nn.Module:
        """Load the weights to keep into the caller's student and return the deployed network in eval mode."""
        self.sync_buffers()
        student, is_sharded = self.original.student, self.original is not self.distiller
        if is_sharded:
            self.original.objective.load_state_dict(gather_full_state(self.distiller.objective.state_dict()))
        if self.training.keep_weights == "best":
            if "student" not in self.best:
                raise LimbeckError(
                    f"training.keep_weights best found no best epoch: val/{self.monitored_metrics[0].name} was not a "
                    "number in any epoch; look at the outputs on the validation data"
                )
            student.load_state_dict(self.best["student"])
        elif is_sharded or self.ema_model is not None:
            trained = self.distiller.student if self.ema_model is None else self.ema_model.module
            student.load_state_dict(gather_full_state(trained.state_dict()))
        return deployment_model(self.original).eval()


def _require_progress(state: Mapping[str, Any], *, num_steps: int) -> None:
    """Raise ``ValueError`` where the progress in a checkpoint is not that of a training of ``num_steps``."""
    step, seconds, history = state["step"], state["seconds"], state["history"]
    if type(step) is not int or not 0 <= step <= num_steps:
        raise ValueError(f"step must be from 0 to {num_steps}, got {step!r}")
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise ValueError(f"seconds must be finite, got {seconds!r}")
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise ValueError("history must be a list of rows")
    if not isinstance(warnings := state.get("warnings", []), list) or not all(isinstance(w, str) for w in warnings):
        raise ValueError("warnings must be a list of texts")
    value = state["best"].get("value", 0.0)
    if not isinstance(value, int | float) or not isinstance(state["best"].get("epoch", 0), int):
        raise ValueError(f"best must have a number, got {value!r}")


def _normalize_setting(value: Any) -> Any:
    """Write equal settings equally: a resolved recipe has 0.0 and [0.9] where a default is 0 and (0.9,).

    >>> _normalize_setting("KDLoss(temperature=np.float64(4.0))")
    'KDLoss[temperature=4]'
    """
    if not isinstance(value, str):
        return value
    value = re.sub(r"\bnp\.\w+\(([^()]*)\)", r"\1", value)
    return re.sub(r"(?<![\w.])(\d+)\.0(?![\de])", r"\1", value).translate({ord("("): "[", ord(")"): "]"})
