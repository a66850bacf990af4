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
from limbeck.data.batch_sampler import BatchStream
from limbeck.data.counter_rng import derive_seed
from limbeck.distiller.deployment import classifier_source, deployment_model
from limbeck.distiller.distiller import Distiller
from limbeck.training import checkpoint as saved
from limbeck.training import fsdp as shards
from limbeck.training.callbacks import MetricsRow
from limbeck.training.config import TrainingConfig
from limbeck.training.distributed import all_gather_object

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["TrainState", "TrainingLength", "compute_training_length", "initialize_state"]


@final
@dataclass(frozen=True, slots=True)
class TrainingLength:
    """How long a training is.

    Attributes:
        steps: its optimizer steps; schedules and the scheduler go by these.
        steps_per_epoch: how many make an epoch.
        epochs: how many epochs that is.
        stop_after_steps: after how many steps it ends: all of them, or fewer.
        steps_before: the steps of the stages before it.
        total_steps: the steps of all stages together; 0 where that is not known.
    """

    steps: int
    steps_per_epoch: int
    epochs: int
    stop_after_steps: int
    steps_before: int = 0
    total_steps: int = 0

    def progress(self, step: int) -> Progress:
        """The clock after so many steps."""
        return Progress(
            step, self.steps, step // self.steps_per_epoch, self.epochs, self.steps_before, self.total_steps
        )

    @property
    def description(self) -> int | str:
        """What tells this length from another, for the identity of a training."""
        early_stop = "" if self.stop_after_steps == self.steps else f", stopped at {self.stop_after_steps}"
        stages = f", after {self.steps_before} of {self.total_steps}" if self.total_steps not in (0, self.steps) else ""
        return f"{self.steps}{early_stop}{stages}" if early_stop or stages else self.steps


def compute_training_length(
    stream: BatchStream, epochs: int | None, steps: int | None, steps_per_epoch: int | None, training: TrainingConfig,
    *, stop_after_steps: int | None = None, steps_before: int = 0, total_steps: int = 0,
) -> TrainingLength:  # fmt: skip
    """The length that ``epochs`` or ``steps`` ask for, whichever was given."""
    if (epochs is None) == (steps is None):
        raise LimbeckError("say how long to train: either epochs or steps")
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
            f"steps_before={steps_before} and total_steps={total_steps} do not hold this stage of {length} steps: give the steps of the stages "
            "before it and those of all stages together"
        )
    return TrainingLength(
        length,
        steps_in_epoch,
        math.ceil(length / steps_in_epoch),
        stop_after_steps or length,
        steps_before,
        total_steps,
    )


@final
@dataclass(slots=True)
class TrainState:
    """All that moves while training, and how to put it away and take it out again.

    ``original`` is the distiller that came in; ``distiller`` the one that trains, another where its student is in shares.
    """

    original: Distiller
    distiller: Distiller
    model: Any
    backward: Callable[[Tensor], Any]
    optimizer: Any
    scheduler: Any
    fabric: Any
    ema_model: Any
    settings: dict[str, Any]
    step: int = 0
    seconds: float = 0.0
    history: list[MetricsRow] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    should_stop: bool = False

    def step_optimizer(self, training: TrainingConfig) -> None:
        """One optimizer step."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.scheduler is not None and training.scheduler_interval == "step":
            self.scheduler.step()
        if self.ema_model is not None:
            self.ema_model.update_parameters(self.distiller.student)

    def eval_model(self) -> nn.Module:
        """The network that is validated and kept: what the training is for, or the average of its weights."""
        network: nn.Module = deployment_model(self.distiller) if self.ema_model is None else self.ema_model.module
        return network

    def end_epoch(self, row: MetricsRow, training: TrainingConfig) -> None:
        """Take note of an epoch; stop early when it is time."""
        self.history.append(row)
        if self.scheduler is not None and training.scheduler_interval == "epoch":
            plateau = isinstance(self.scheduler, ReduceLROnPlateau)
            self.scheduler.step(row["val/nll"]) if plateau else self.scheduler.step()
        accuracy = row.get("val/accuracy")
        if accuracy is not None and accuracy > self.best.get("accuracy", -1.0):
            self.best = {"accuracy": accuracy, "epoch": row["epoch"]}
            if training.keep_weights == "best":
                weights = shards.gather_full_state(self.eval_model().state_dict())
                self.best["student"] = {n: t.detach().cpu().clone() for n, t in weights.items()}
        if training.early_stopping_patience is not None and self.best:
            self.should_stop = row["epoch"] - self.best["epoch"] >= training.early_stopping_patience

    def start_clock(self) -> Callable[[], float]:
        """Seconds of training so far, earlier pieces included."""
        start = time.monotonic() - self.seconds
        return lambda: time.monotonic() - start

    def save(self, path: Path | None) -> None:
        """Write everything to ``path``: the first process, while the others take part and wait until it is done."""
        if path is None:
            return
        state = self.full_state()
        if not self.fabric.global_rank:
            saved.save_checkpoint(path, state)
        self.sync_buffers()

    def sync_buffers(self) -> None:
        """Wait for every process, and take the first one's buffers: BatchNorm's are of each process's own pictures."""
        if self.fabric.world_size > 1:
            for buffer in self.eval_model().buffers():
                dist.broadcast(buffer, 0)
            all_gather_object(self.fabric, None)

    def full_state(self) -> dict[str, Any]:
        """Everything, as tensors and plain values; all processes take part."""
        return {
            "settings": self.settings,
            "step": self.step, "seconds": self.seconds, "history": self.history, "best": self.best, "should_stop": self.should_stop,
            "student": shards.gather_full_state(self.distiller.student.state_dict()),
            "losses": shards.gather_full_state(self.distiller.objective.state_dict()),
            "teachers": {name: teacher.state_dict() for name, teacher in self.distiller.teachers.items()},
            "optimizer": shards.gather_full_state(self.optimizer.state_dict()),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "ema_model": None if self.ema_model is None else self.ema_model.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "random": all_gather_object(self.fabric, saved.get_rng_states()),
        }  # fmt: skip

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Put everything back, unless it belongs to another training."""
        for name, value in self.settings.items():
            if _normalize_setting(state["settings"].get(name)) != _normalize_setting(value):
                raise LimbeckError(
                    f"{path} was written by another training: its {name} was {state['settings'].get(name)!r} "
                    f"and is now {value!r}; resume with the settings it was begun with, or choose another folder"
                )
        self.step, self.seconds, self.should_stop = state["step"], state["seconds"], state["should_stop"]
        self.history, self.best = state["history"], state["best"]
        shards.load_full_weights(self.distiller.student, state["student"])
        shards.load_full_weights(self.distiller.objective, state["losses"])
        for name, teacher in self.distiller.teachers.items():
            teacher.load_state_dict(state["teachers"][name])
        shards.load_full_optimizer_state(self.optimizer, state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.ema_model is not None:
            self.ema_model.load_state_dict(state["ema_model"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        saved.set_rng_states(state["random"][self.fabric.global_rank])

    def finalize(self, training: TrainingConfig) -> nn.Module:
        """What the training was for, with the weights to keep, whole and the same in every process, in eval mode.

        It is the student that was given, or what stands in its place (:func:`limbeck.distiller.deployment`).
        """
        self.sync_buffers()
        student = self.original.student
        if self.original is not self.distiller:
            self.original.objective.load_state_dict(shards.gather_full_state(self.distiller.objective.state_dict()))
        if training.keep_weights == "best" and "student" in self.best:
            student.load_state_dict(self.best["student"])
        elif self.original is not self.distiller or self.ema_model is not None:
            student.load_state_dict(shards.gather_full_state(self._trained_weights()))
        return deployment_model(self.original).eval()

    def _trained_weights(self) -> dict[str, Any]:
        ema_model = self.ema_model
        state: dict[str, Any] = (self.distiller.student if ema_model is None else ema_model.module).state_dict()
        return state


def _require_deployable(distiller: Distiller, training: TrainingConfig, fabric: Fabric) -> None:
    """Refuse what keeps the student without the rest of what is deployed; that it can be built is seen here too."""
    if classifier_source(distiller) is None:
        return
    deployment_model(distiller)
    for setting, is_set in (
        ("training.keep_weights best", training.keep_weights == "best"), ("training.ema_decay", training.ema_decay is not None),
        ("the strategy fsdp", shards.is_fsdp(fabric)),
    ):  # fmt: skip
        if is_set:
            raise LimbeckError(
                f"{setting} keeps the student's own weights, and with SimKD a projector of the loss's is deployed with "
                "them: leave it away"
            )


def initialize_state(
    distiller: Distiller,
    stream: BatchStream,
    length: TrainingLength,
    training: TrainingConfig,
    fabric: Fabric,
    *,
    seed: int,
) -> TrainState:
    """Everything at its start: seeded, on its device, projections shaped, optimizer and scheduler built."""
    saved.seed_everything(seed)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    distiller.to(fabric.device)
    distiller.prepare(fabric.to_device(stream.batch(0)))
    _require_deployable(distiller, training, fabric)
    original, model = distiller, None
    if shards.is_fsdp(fabric):
        if training.ema_decay is not None:
            raise LimbeckError(
                "training.ema_decay keeps an average of whole weights, and under the strategy fsdp no process has them: "
                "leave ema_decay away, or set the strategy to ddp"
            )
        distiller, model = shards.shard_module(original, fabric)
    trainable = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    if not trainable:
        raise LimbeckError("nothing is left to train: every parameter of the student is frozen")
    optimizer = training.optimizer(trainable)
    num_scheduler_steps = length.steps if training.scheduler_interval == "step" else length.epochs
    scheduler = None if training.scheduler is None else training.scheduler(optimizer, num_scheduler_steps)
    if isinstance(scheduler, ReduceLROnPlateau) and training.scheduler_interval == "step":
        raise LimbeckError("ReduceLROnPlateau watches the validation loss: set `interval: epoch` beside it")
    if model is None:
        model, wrapped = fabric.setup(distiller, optimizer)
    else:
        wrapped = fabric.setup_optimizers(optimizer)
    is_single_device = type(fabric.strategy).__name__ == "SingleDeviceStrategy"
    backward: Callable[[Tensor], Any] = fabric.backward
    if is_single_device and fabric.strategy.precision.precision == "32-true":
        # Here Fabric's wrappers change nothing; but they would walk through every batch and loss to do so.
        model, backward = distiller, Tensor.backward
        if not getattr(wrapped, "_callbacks", True):
            wrapped = optimizer
    distiller.train()
    ema_model = None
    if training.ema_decay is not None:
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        ema_update = get_ema_multi_avg_fn(training.ema_decay)  # type: ignore[no-untyped-call]
        ema_model = AveragedModel(distiller.student, multi_avg_fn=ema_update, use_buffers=True)
    if fabric.global_rank:
        saved.seed_everything(
            derive_seed(seed, fabric.global_rank)
        )  # else dropout would draw the same mask in every process
    settings = {
        "objective": str(distiller.objective), "steps": length.description, "steps_per_epoch": length.steps_per_epoch,
        "batch_size": training.batch_size if training.batch_pairing == "none" else f"{training.batch_size} {training.batch_pairing}",
        "world_size": fabric.world_size, "optimizer": f"{type(optimizer).__name__} {optimizer.defaults}", "seed": seed,
        "student": zlib.crc32(str([(n, tuple(p.shape)) for n, p in distiller.student.state_dict().items()]).encode()),
    }  # fmt: skip
    return TrainState(original, distiller, model, backward, wrapped, scheduler, fabric, ema_model, settings)


def _normalize_setting(value: Any) -> Any:
    """The same text for the same settings: a recipe written out says 0.0 and [0.9] where a default is 0 and (0.9,)."""
    if not isinstance(value, str):
        return value
    return re.sub(r"(?<![\w.])(\d+)\.0(?![\de])", r"\1", value).translate({ord("("): "[", ord(")"): "]"})
