"""The settings of a recipe's stage, as the engine takes them."""

from __future__ import annotations

from dataclasses import replace

from limbeck.core.errors import LimbeckError
from limbeck.recipe import Recipe, StagePlan
from limbeck.recipe.study_schema import CONTROLS
from limbeck.training import Training

__all__ = ["dealt", "require_processes", "training_of"]


def dealt(training: Training, phase: str) -> Training:
    """A stage's settings; a control gets plain batches, as nothing of it needs others."""
    return replace(training, sampling="plain") if phase in CONTROLS else training


def training_of(stage: StagePlan) -> Training:
    """What the engine is told of a stage's settings."""
    said = stage.training
    scheduler = stage.scheduler
    return Training(
        optimizer=stage.optimizer.build,
        scheduler=None if scheduler is None else lambda optimizer, steps: scheduler.build(optimizer, steps=steps),
        per="step" if said.scheduler is None else said.scheduler.per,
        batch=said.batch, accumulate=said.accumulate, clip=said.clip, ema=said.ema, patience=said.patience,
        keep=said.keep, workers=said.workers, sampling=said.sampling,
    )  # fmt: skip


def require_processes(recipe: Recipe, world: int) -> None:
    """Refuse a number of processes that the recipe was not made for, and a strategy that needs several."""
    for place, stage in recipe.each_stage():
        said = recipe.training_of(stage, place=place)
        if said.devices not in (None, world):
            raise LimbeckError(
                f"{place}: training.devices is {said.devices}, and the number of processes is {world}: start it "
                f"with torchrun --nproc-per-node {said.devices} -m limbeck distill …, or change devices"
            )
        if said.strategy != "auto" and world == 1:
            raise LimbeckError(
                f"{place}: training.strategy {said.strategy} spreads a training over processes, and there is one: "
                "start it with torchrun --nproc-per-node N -m limbeck distill …, or set it to auto"
            )
