"""What a training begins with: device, projections, optimizer, scheduler, and the checks of its settings."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from limbeck.core.errors import LimbeckError
from limbeck.data.batch_sampler import BatchStream
from limbeck.data.counter_rng import derive_seed
from limbeck.distiller.deployment import classifier_source, deployment_model
from limbeck.distiller.distiller import Distiller
from limbeck.teachers.self_teachers import EMATeacher
from limbeck.training.checkpoint import to_plain_values
from limbeck.training.config import TrainingConfig
from limbeck.training.convert_precision import require_precision, to_precision
from limbeck.training.fsdp import is_fsdp, shard_module
from limbeck.training.optimizers import make_optimizer, make_scheduler
from limbeck.training.train_state import TrainState
from limbeck.training.training_length import TrainingLength
from limbeck.utils.parametrizations import copy_module
from limbeck.utils.random_states import seed_everything

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["initialize_state"]


def initialize_state(
    distiller: Distiller, stream: BatchStream, length: TrainingLength, training: TrainingConfig, fabric: Fabric, *,
    phase: str, stage: str, seed: int,
) -> TrainState:  # fmt: skip
    """Seed, move to the device, build projections, optimizer and scheduler."""
    seed_everything(seed)
    distiller.to(fabric.device)
    precision = fabric.strategy.precision
    precision.convert_module(distiller)
    first_batch = stream.batch(0)
    if fabric.device.type != "cpu":
        distiller.task.target(first_batch)  # tasks check the values of a target on the CPU only
    first_batch = to_precision(fabric, first_batch)
    with precision.forward_context():
        distiller.prepare(first_batch)
    _require_deployable(distiller, training, fabric)
    original, model = distiller, None
    if is_fsdp(fabric):
        if training.ema_decay is not None:
            raise LimbeckError(
                "training.ema_decay averages full weights, and under the strategy fsdp no process has them: leave "
                "ema_decay away, or set the strategy to ddp"
            )
        distiller, model = shard_module(original, fabric)
    optimizer = make_optimizer(distiller, training)
    num_scheduler_steps = length.steps if training.scheduler_interval == "step" else length.epochs
    scheduler = make_scheduler(optimizer, num_scheduler_steps, training)
    require_precision(precision.precision, distiller, training, optimizer)
    model, backward, fabric_optimizer = _set_up(distiller, model, optimizer, fabric)
    distiller.train()
    ema_model = _make_ema_model(distiller.student, training.ema_decay)
    if fabric.global_rank == 0:
        _warn_of_long_averages(distiller, training, length.stop_after_steps)
    if fabric.global_rank:  # with one seed, dropout would draw the same mask in every process
        seed_everything(derive_seed(seed, fabric.global_rank))
    pairing = "" if training.batch_pairing == "none" else f" {training.batch_pairing}"
    settings = {
        "objective": str(distiller.objective), "steps": length.description, "steps_per_epoch": length.steps_per_epoch,
        "batch_size": f"{training.batch_size}{pairing}" if pairing else training.batch_size,
        "batch_tokens": training.batch_tokens,
        "world_size": fabric.world_size, "seed": seed,
        "parameter_groups": str(list(training.parameter_groups)) if training.parameter_groups else None,
        "optimizer": f"{type(optimizer).__name__} {to_plain_values(optimizer.defaults)}",
        "student": zlib.crc32(str([(n, tuple(p.shape)) for n, p in distiller.student.state_dict().items()]).encode()),
    }  # fmt: skip
    return TrainState(
        training=training, length=length, phase=phase, stage=stage, original=original, distiller=distiller,
        model=model, backward=backward, optimizer=fabric_optimizer, scheduler=scheduler, fabric=fabric,
        ema_model=ema_model, settings=settings, stream=stream, padding_batch=first_batch if is_fsdp(fabric) else None,
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


def _make_ema_model(student: nn.Module, decay: float | None) -> Any:
    if decay is None:
        return None
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    ema_update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(copy_module(student), multi_avg_fn=ema_update, use_buffers=True)


def _warn_of_long_averages(distiller: Distiller, training: TrainingConfig, steps: int) -> None:
    """Warn of moving averages over more steps than the training has: they stay near the initial weights."""
    decays = {"training.ema_decay": training.ema_decay} | {
        f"EMATeacher {name!r}": teacher.decay
        for name, teacher in distiller.teachers.items()
        if isinstance(teacher, EMATeacher)
    }
    for name, decay in decays.items():
        if isinstance(decay, float) and 1 / (1 - decay) > steps:
            warnings.warn(
                f"{name}: a decay of {decay:g} averages the weights over about {1 / (1 - decay):.0f} steps, and the "
                f"training has {steps}, so the average stays near the initial weights: lower the decay",
                stacklevel=2,
            )


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
