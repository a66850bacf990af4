"""What a recipe needs of its task, checked before training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.task import DeployableTask, EvaluableTask, Task, require_deployable
from limbeck.data import DataModule, iterate_batches
from limbeck.evaluation import check_scores
from limbeck.recipe import Recipe
from limbeck.workflows._job.facts import data_facts

__all__ = ["check_data", "require_finite_losses", "validate_task"]


def validate_task(task: EvaluableTask, network: nn.Module, data: DataModule, recipe: Recipe) -> None:
    """Refuse a task that lacks what the recipe needs, and score two validation samples.

    Args:
        task: the task of the recipe.
        network: a new student.
        data: the data of the recipe.
        recipe: its cache and its exports need a :class:`DeployableTask`.

    Raises:
        LimbeckError: the task lacks a method or refuses the data, or its scores, metrics or examples cannot be used.
    """
    if recipe.cache is not None:
        require_deployable(task, "a cache of teacher outputs")
    if recipe.export.to:
        require_deployable(task, f"export.to: {', '.join(recipe.export.to)}")
    split = data.validation.subset(torch.arange(min(2, len(data.validation))))
    batch, raw_batch = (next(iterate_batches(split, normalization)) for normalization in (data.normalization, None))
    network = network.eval()
    check_data(task, network, data)
    check_scores(network, batch, task)
    if isinstance(task, DeployableTask):
        with torch.no_grad():
            examples = task.examples(raw_batch, {"distilled": task.score(network, batch)}, data_facts(data))
        if len(examples) != len(split):
            raise LimbeckError(
                f"{type(task).__name__}.examples must return one Example for each sample, got {len(examples)} for "
                f"{len(split)} samples"
            )


def check_data(task: Task, network: nn.Module, data: DataModule) -> None:
    """Let the task refuse data that ``network`` cannot be trained on (``check_data``)."""
    if (check := getattr(task, "check_data", None)) is not None:
        check(network, data)


def require_finite_losses(losses: Mapping[str, torch.Tensor], stage: str, recipe: Recipe) -> None:
    """Refuse losses that outputs of a cache without the smallest logits make infinite."""
    cache = recipe.cache
    infinite = [name for name, loss in losses.items() if not loss.isfinite()]
    if cache is not None and cache.tail == "renormalized" and infinite:
        raise LimbeckError(
            f"cache.tail: renormalized gives classes beyond the top {cache.top_k} a logit of minus infinity, for "
            f"which the loss {infinite[0]!r} of stage {stage!r} is not finite: set tail: spread, or top_k: null to "
            "store all logits"
        )
