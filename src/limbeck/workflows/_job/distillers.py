"""The settings of a recipe's stage, as the engine takes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.recipe import Recipe, ResolvedStage
from limbeck.recipe.study_schema import BASELINES
from limbeck.training import TrainingConfig

__all__ = ["BASELINE_PHASES", "check_world_size", "config_for_phase", "make_training_config"]

BASELINE_PHASES: Final = (str(Role.BASELINE), *BASELINES)
"""Phases that train the student without a teacher: the one of a run, and those of a study's trials."""


def config_for_phase(training: TrainingConfig, phase: str) -> TrainingConfig:
    """A stage's settings; a baseline gets unpaired batches, as nothing of it needs pairs."""
    return replace(training, batch_pairing="none") if phase in BASELINE_PHASES else training


def make_training_config(stage: ResolvedStage) -> TrainingConfig:
    """What the engine is told of a stage's settings."""
    config = stage.training
    scheduler = stage.scheduler
    return TrainingConfig(
        optimizer=stage.optimizer.build,
        scheduler=None if scheduler is None else lambda optimizer, steps: scheduler.build(optimizer, steps=steps),
        scheduler_interval="step" if config.scheduler is None else config.scheduler.interval,
        batch_size=config.batch_size, grad_accum_steps=config.grad_accum_steps, max_grad_norm=config.max_grad_norm, ema_decay=config.ema_decay, early_stopping_patience=config.early_stopping_patience,
        keep_weights=config.keep_weights, num_workers=config.num_workers, batch_pairing=config.batch_pairing,
    )  # fmt: skip


def check_world_size(recipe: Recipe, world_size: int) -> None:
    """Refuse a number of processes that the recipe was not made for, and a strategy that needs several."""
    for config_path, stage in recipe.all_stages():
        config = recipe.stage_training(stage, config_path=config_path)
        if config.devices not in (None, world_size):
            raise LimbeckError(
                f"{config_path}: training.devices is {config.devices}, and the number of processes is {world_size}: start it "
                f"with torchrun --nproc-per-node {config.devices} -m limbeck distill …, or change devices"
            )
        if config.strategy != "auto" and world_size == 1:
            raise LimbeckError(
                f"{config_path}: training.strategy {config.strategy} spreads a training over processes, and there is one: "
                "start it with torchrun --nproc-per-node N -m limbeck distill …, or set it to auto"
            )
