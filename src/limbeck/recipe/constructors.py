"""Builds the objects of a recipe that need neither data nor networks, to find values that their constructors refuse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from limbeck.recipe.resolved_node import ResolvedNode

if TYPE_CHECKING:
    from limbeck.recipe.resolve import ResolvedRecipe

__all__ = ["check_constructors"]

_TRUSTED_PACKAGES = ("limbeck", "torch")
_SOME_STEPS = 100
"""The length of a stage in epochs, which only the data decides."""


def check_constructors(resolved: ResolvedRecipe) -> None:
    """Build data source, losses, optimizers and schedulers of ``resolved``, those of limbeck and torch.

    Raises:
        LimbeckError: with the dotted path of the first that refuses a value.
    """
    stages = [*([resolved.teacher_training] if resolved.teacher_training else []), *resolved.stages]
    nodes = [resolved.data, *(node for stage in stages for node in stage.loss_nodes)]
    for node in nodes:
        if _can_be_built(node):
            node.build()
    for stage in stages:
        if _can_be_built(stage.optimizer):
            optimizer = stage.optimizer.build([nn.Parameter(torch.zeros(1))])
            if stage.scheduler is not None and all(map(_is_trusted, _nested(stage.scheduler))):
                stage.scheduler.build(optimizer, steps=stage.stage.steps or _SOME_STEPS)


def _can_be_built(node: ResolvedNode) -> bool:
    """Whether the recipe has every value of ``node``, and no code of a plugin runs."""
    return all(_is_trusted(inner) and not inner.deferred for inner in _nested(node))


def _is_trusted(node: ResolvedNode) -> bool:
    return str(getattr(node.target, "__module__", "")).partition(".")[0] in _TRUSTED_PACKAGES


def _nested(value: Any) -> Iterator[ResolvedNode]:
    """``value`` and the nodes in its settings."""
    if isinstance(value, ResolvedNode):
        yield value
        value = value.settings
    if isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _nested(item)
    elif isinstance(value, Mapping):
        yield from _nested(list(value.values()))
