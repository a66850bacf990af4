"""The settings of a recipe's stage, as the engine takes them."""

from __future__ import annotations

from dataclasses import replace

from limbeck.engine import Training
from limbeck.recipe import StagePlan
from limbeck.recipe.study import CONTROLS

__all__ = ["dealt", "training_of"]


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
