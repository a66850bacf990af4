"""The state of a training: initialization, checkpoints, and the weights to keep."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.data.batch_sampler import BatchStream
from limbeck.data.counter_rng import derive_seed
from limbeck.distiller.deployment import classifier_source, deployment_model
from limbeck.distiller.distiller import Distiller
from limbeck.training.callbacks import MetricsRow
from limbeck.training.checkpoint import (
    get_rng_states,
    load_checkpoint,
    save_checkpoint,
    seed_everything,
    set_rng_states,
)
from limbeck.training.config import TrainingConfig
from limbeck.training.distributed import all_gather_object
from limbeck.training.fsdp import (
    gather_full_state,
    is_fsdp,
    load_full_optimizer_state,
    load_full_weights,
    shard_module,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["TrainState", "TrainingLength", "compute_training_length", "initialize_state", "training_seed"]

_SEED_NAMES: Final = {
    "baseline": "alone", "student_only": "alone", "equal_time": "longer", "label_smoothing": "smoothed",
    "no_assistants": "direct", "teacher_training": "teaching", "pretrain": "alone",
}  # fmt: skip
"""The names of phases and stages in records of schema 2, which seeds are derived from, so that weights and records of
that schema are reproduced to the bit. Other names are used as they are."""


def training_seed(seed: int, phase: str, stage: str) -> int:
    """The seed of the ``stage`` of a ``phase`` in a run with ``seed``: a hash of their names, mixed with ``seed``.

    >>> training_seed(0, "baseline", "distill") == derive_seed(0, zlib.crc32(b"alone/distill"))
    True
    """
    names = (_SEED_NAMES.get(name, name) for name in (phase, stage))
    return derive_seed(seed, zlib.crc32("/".join(names).encode()))


@final
@dataclass(frozen=True, slots=True)
class TrainingLength:
    """Length of a training.

    Attributes:
        steps: number of optimizer steps, which schedules and the scheduler depend on.
        steps_per_epoch: steps in an epoch.
        epochs: number of epochs.
        stop_after_steps: the step after which the training ends, at most ``steps``.
        steps_before: steps of the stages before this one.
        total_steps: steps of all stages; 0 if unknown.
    """

    steps: int
    steps_per_epoch: int
    epochs: int
    stop_after_steps: int
    steps_before: int = 0
    total_steps: int = 0

    def progress(self, step: int) -> Progress:
        """Progress after ``step`` steps."""
        return Progress(
            step, self.steps, step // self.steps_per_epoch, self.epochs, self.steps_before, self.total_steps
        )

    @property
    def description(self) -> int | str:
        """The length as compared with that of a checkpoint."""
        early_stop = "" if self.stop_after_steps == self.steps else f", stopped at {self.stop_after_steps}"
        stages = f", after {self.steps_before} of {self.total_steps}" if self.total_steps not in (0, self.steps) else ""
        return f"{self.steps}{early_stop}{stages}" if early_stop or stages else self.steps


def compute_training_length(
    stream: BatchStream, epochs: int | None, steps: int | None, steps_per_epoch: int | None, training: TrainingConfig,
    *, stop_after_steps: int | None = None, steps_before: int = 0, total_steps: int = 0,
) -> TrainingLength:  # fmt: skip
    """Compute the length from either ``epochs`` or ``steps``."""
    if (epochs is None) == (steps is None):
        raise LimbeckError("the length of a training must be given by either epochs or steps")
    steps_in_epoch = steps_per_epoch or max(1, stream.steps_per_epoch // training.grad_accum_steps)
    length = steps if steps is not None else steps_in_epoch * (epochs or 0)
    if length < 1:
        raise LimbeckError(f"training takes at least one step, not {length}")
    if stop_after_steps is not None and not 1 <= stop_after_steps <= length:
        raise LimbeckError(
            f"a training of {length} steps can stop early after 1 to {length} steps, not after {stop_after_steps}"
        )
    if steps_before < 0 or (total_steps and total_steps < steps_before + length) or (steps_before and not total_steps):
        raise LimbeckError(
            f"steps_before={steps_before} and total_steps={total_steps} do not hold this stage of {length} steps: give "
            "the steps of the stages before it and those of all stages together"
        )
    epochs = math.ceil(length / steps_in_epoch)
    return TrainingLength(length, steps_in_epoch, epochs, stop_after_steps or length, steps_before, total_steps)


@final
@dataclass(slots=True, kw_only=True)
class TrainState:
    """The state that a checkpoint saves and restores.

    Attributes:
        original: the caller's distiller.
        distiller: the trained one, a sharded copy with FSDP.
        model: the distiller in Fabric's wrapper, where that has an effect.
        settings: what a checkpoint must have in common with the training that resumes it.
        path: the checkpoint, or ``None`` to save none.
        best: accuracy, epoch and weights of the best epoch.
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
    path: Path | None = None
    step: int = 0
    seconds: float = 0.0
    history: list[MetricsRow] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    should_stop: bool = False

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

    def end_epoch(self, row: MetricsRow) -> None:
        """Append ``row``, step an epoch scheduler, keep the best weights, and decide on early stopping."""
        self.history.append(row)
        if self.scheduler is not None and self.training.scheduler_interval == "epoch":
            plateau = isinstance(self.scheduler, ReduceLROnPlateau)
            self.scheduler.step(row["val/nll"]) if plateau else self.scheduler.step()
        accuracy = row.get("val/accuracy")
        if accuracy is not None and accuracy > self.best.get("accuracy", -1.0):
            self.best = {"accuracy": accuracy, "epoch": row["epoch"]}
            if self.training.keep_weights == "best":
                weights = gather_full_state(self.eval_model().state_dict())
                self.best["student"] = {n: t.detach().cpu().clone() for n, t in weights.items()}
        patience = self.training.early_stopping_patience
        if patience is not None and self.best:
            self.should_stop = row["epoch"] - self.best["epoch"] >= patience

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
            "should_stop": self.should_stop,
            "student": gather_full_state(self.distiller.student.state_dict()),
            "losses": gather_full_state(self.distiller.objective.state_dict()),
            "teachers": {name: teacher.state_dict() for name, teacher in self.distiller.teachers.items()},
            "optimizer": gather_full_state(self.optimizer.state_dict()),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "ema_model": None if self.ema_model is None else self.ema_model.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "random": all_gather_object(self.fabric, get_rng_states()),
        }  # fmt: skip
        if not self.fabric.global_rank:
            save_checkpoint(self.path, state)
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
        self.step, self.seconds, self.should_stop = state["step"], state["seconds"], state["should_stop"]
        self.history, self.best = state["history"], state["best"]
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
        set_rng_states(state["random"][self.fabric.global_rank])

    def finalize(self) -> nn.Module:
        """Load the weights to keep into the caller's student and return the deployed network in eval mode."""
        self.sync_buffers()
        student, is_sharded = self.original.student, self.original is not self.distiller
        if is_sharded:
            self.original.objective.load_state_dict(gather_full_state(self.distiller.objective.state_dict()))
        if self.training.keep_weights == "best" and "student" in self.best:
            student.load_state_dict(self.best["student"])
        elif is_sharded or self.ema_model is not None:
            trained = self.distiller.student if self.ema_model is None else self.ema_model.module
            student.load_state_dict(gather_full_state(trained.state_dict()))
        return deployment_model(self.original).eval()


def initialize_state(
    distiller: Distiller, stream: BatchStream, length: TrainingLength, training: TrainingConfig, fabric: Fabric, *,
    phase: str, stage: str, seed: int,
) -> TrainState:  # fmt: skip
    """Seed, move to the device, build projections, optimizer and scheduler."""
    seed_everything(seed)
    distiller.to(fabric.device)
    distiller.prepare(fabric.to_device(stream.batch(0)))
    _require_deployable(distiller, training, fabric)
    original, model = distiller, None
    if is_fsdp(fabric):
        if training.ema_decay is not None:
            raise LimbeckError(
                "training.ema_decay averages full weights, and under the strategy fsdp no process has them: leave "
                "ema_decay away, or set the strategy to ddp"
            )
        distiller, model = shard_module(original, fabric)
    trainable = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    if not trainable:
        raise LimbeckError("nothing is left to train: every parameter of the student is frozen")
    optimizer = training.optimizer(trainable)
    scheduler = _make_scheduler(optimizer, length, training)
    model, backward, fabric_optimizer = _set_up(distiller, model, optimizer, fabric)
    distiller.train()
    ema_model = _make_ema_model(distiller.student, training.ema_decay)
    if fabric.global_rank:  # with one seed, dropout would draw the same mask in every process
        seed_everything(derive_seed(seed, fabric.global_rank))
    pairing = "" if training.batch_pairing == "none" else f" {training.batch_pairing}"
    settings = {
        "objective": str(distiller.objective), "steps": length.description, "steps_per_epoch": length.steps_per_epoch,
        "batch_size": f"{training.batch_size}{pairing}" if pairing else training.batch_size,
        "world_size": fabric.world_size, "optimizer": f"{type(optimizer).__name__} {optimizer.defaults}", "seed": seed,
        "student": zlib.crc32(str([(n, tuple(p.shape)) for n, p in distiller.student.state_dict().items()]).encode()),
    }  # fmt: skip
    return TrainState(
        training=training, length=length, phase=phase, stage=stage, original=original, distiller=distiller,
        model=model, backward=backward, optimizer=fabric_optimizer, scheduler=scheduler, fabric=fabric,
        ema_model=ema_model, settings=settings,
    )  # fmt: skip


def _require_deployable(distiller: Distiller, training: TrainingConfig, fabric: Fabric) -> None:
    """Refuse settings that keep the student's weights only, if more than the student is deployed."""
    if classifier_source(distiller) is None:
        return
    deployment_model(distiller)
    for setting, is_set in (
        ("training.keep_weights best", training.keep_weights == "best"),
        ("training.ema_decay", training.ema_decay is not None),
        ("the strategy fsdp", is_fsdp(fabric)),
    ):
        if is_set:
            raise LimbeckError(
                f"{setting} keeps the student's own weights, and with SimKD the loss's projector is deployed too: "
                "leave it away"
            )


def _make_scheduler(optimizer: Optimizer, length: TrainingLength, training: TrainingConfig) -> Any:
    if training.scheduler is None:
        return None
    scheduler = training.scheduler(optimizer, length.steps if training.scheduler_interval == "step" else length.epochs)
    if isinstance(scheduler, ReduceLROnPlateau) and training.scheduler_interval == "step":
        raise LimbeckError("ReduceLROnPlateau needs the validation loss of each epoch: set `interval: epoch`")
    return scheduler


def _make_ema_model(student: nn.Module, decay: float | None) -> Any:
    if decay is None:
        return None
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    ema_update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(student, multi_avg_fn=ema_update, use_buffers=True)


def _set_up(
    distiller: Distiller, model: Any, optimizer: Optimizer, fabric: Fabric
) -> tuple[Any, Callable[[Tensor], Any], Any]:
    """Wrap distiller, backward and optimizer by Fabric, where its wrappers have an effect."""
    from lightning_fabric.strategies.single_device import SingleDeviceStrategy

    if model is None:
        model, fabric_optimizer = fabric.setup(distiller, optimizer)
    else:
        fabric_optimizer = fabric.setup_optimizers(optimizer)
    if type(fabric.strategy) is not SingleDeviceStrategy or fabric.strategy.precision.precision != "32-true":
        return model, fabric.backward, fabric_optimizer
    # Here the wrappers have no effect, but walk through every batch and loss.
    return distiller, Tensor.backward, fabric_optimizer if getattr(fabric_optimizer, "_callbacks", True) else optimizer


def _normalize_setting(value: Any) -> Any:
    """Write equal settings equally: a resolved recipe has 0.0 and [0.9] where a default is 0 and (0.9,)."""
    if not isinstance(value, str):
        return value
    return re.sub(r"(?<![\w.])(\d+)\.0(?![\de])", r"\1", value).translate({ord("("): "[", ord(")"): "]"})
