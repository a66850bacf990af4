"""The settings of a recipe's stage, as the engine takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Loss, loss_attribute
from limbeck.core.roles import Role
from limbeck.core.schedules import Schedule
from limbeck.losses import CrossEntropyLoss
from limbeck.recipe import Recipe, ResolvedStage
from limbeck.recipe.study_schema import BASELINES
from limbeck.training import TrainingConfig

__all__ = [
    "BASELINE_PHASES",
    "baseline_objective",
    "baseline_weights",
    "check_world_size",
    "config_for_phase",
    "make_training_config",
]

BASELINE_PHASES: Final = (str(Role.BASELINE), *BASELINES)
"""Phases that train the student without a teacher: the one of a run, and those of a study's trials."""


def baseline_objective(
    objective: Mapping[str, Loss], weights: Mapping[str, float | Schedule]
) -> tuple[dict[str, Loss], dict[str, float | Schedule]]:
    """The supervised losses of ``objective`` and their weights; a cross-entropy where there is none.

    >>> from limbeck.losses import KDLoss
    >>> baseline_objective({"target": CrossEntropyLoss(), "kd": KDLoss()}, {"target": 0.1, "kd": 0.9})
    ({'target': CrossEntropyLoss(label_smoothing=0.0)}, {'target': 1.0})
    """
    losses = {name: loss for name, loss in objective.items() if loss_attribute(loss, "supervised")}
    losses = losses or {"target": CrossEntropyLoss()}
    return losses, baseline_weights({name: weights.get(name, 1.0) for name in losses})


def baseline_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """``weights`` divided by the first one; 1 for each where one is not a number above zero.

    >>> baseline_weights({"target": 0.1, "dice": 0.05})
    {'target': 1.0, 'dice': 0.5}
    """
    values = list(weights.values())
    if not all(isinstance(weight, int | float) and weight > 0 for weight in values):
        return dict.fromkeys(weights, 1.0)
    return {name: weight / values[0] for name, weight in weights.items()}


def config_for_phase(training: TrainingConfig, phase: str) -> TrainingConfig:
    """A stage's settings; a baseline gets unpaired batches, as nothing of it needs pairs."""
    return training.model_copy(update={"batch_pairing": "none"}) if phase in BASELINE_PHASES else training


def make_training_config(stage: ResolvedStage) -> TrainingConfig:
    """The settings of a stage for :func:`limbeck.fit`."""
    config, scheduler = stage.training, stage.scheduler
    return TrainingConfig(
        optimizer=stage.optimizer.build,
        scheduler=None if scheduler is None else lambda optimizer, steps: scheduler.build(optimizer, steps=steps),
        scheduler_interval="step" if config.scheduler is None else config.scheduler.interval,
        **config.model_dump(exclude={"optimizer", "scheduler", "precision", "strategy", "devices"}),
    )


def check_world_size(recipe: Recipe, world_size: int) -> None:
    """Refuse a number of processes that the recipe was not made for, and a strategy that needs several."""
    for config_path, stage in recipe.all_stages():
        config = recipe.stage_training(stage, config_path=config_path)
        if config.devices not in (None, world_size):
            raise LimbeckError(
                f"{config_path}: training.devices is {config.devices}, and the number of processes is {world_size}: "
                "start it "
                f"with torchrun --nproc-per-node {config.devices} -m limbeck distill …, or change devices"
            )
        if config.strategy != "auto" and world_size == 1:
            raise LimbeckError(
                f"{config_path}: training.strategy {config.strategy} spreads a training over processes, and there "
                "is one: "
                "start it with torchrun --nproc-per-node N -m limbeck distill …, or set it to auto"
            )
