"""Optimizer and scheduler of a training, with parameter groups by the names of parameters."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.distiller.distiller import Distiller
from limbeck.distiller.mutual import PeerStudents
from limbeck.training.config import TrainingConfig

__all__ = ["make_optimizer", "make_scheduler"]

_OBJECTIVE_PREFIXES = (("objective.trainable.", "losses."), ("objective.", ""))


def make_optimizer(distiller: Distiller, training: TrainingConfig) -> Optimizer:
    """Build the optimizer of the trainable parameters, in the groups of ``training.parameter_groups``.

    A parameter belongs to the first group whose pattern matches its name: that in ``student.named_parameters()``, or
    ``losses.LOSS.…`` for those of a loss. The others keep the settings of the optimizer.

    Raises:
        LimbeckError: nothing is trainable, a pattern matches no parameter, or the optimizer refuses a setting.
    """
    named = [(name, parameter) for name, parameter in _named_parameters(distiller) if parameter.requires_grad]
    if not named:
        raise LimbeckError("nothing is left to train: every parameter of the student is frozen")
    if not training.parameter_groups:
        optimizer: Optimizer = training.optimizer([parameter for _, parameter in named])
        return optimizer
    members: list[list[nn.Parameter]] = [[] for _ in training.parameter_groups]
    others: list[nn.Parameter] = []
    for name, parameter in named:
        matches = (index for index, group in enumerate(training.parameter_groups) if fnmatchcase(name, group["match"]))
        index = next(matches, None)
        (others if index is None else members[index]).append(parameter)
    for index, group in enumerate(training.parameter_groups):
        if not members[index]:
            earlier = any(fnmatchcase(name, group["match"]) for name, _ in named)
            reason = "that no earlier group has" if earlier else "of the training"
            raise LimbeckError(
                f"training.parameter_groups.{index}: {group['match']!r} must match a trainable parameter {reason}, got "
                f"none; names are {suggest_names(group['match'], [name for name, _ in named])}"
            )
    groups = [
        {"params": parameters} | {name: value for name, value in group.items() if name != "match"}
        for group, parameters in zip(training.parameter_groups, members, strict=True)
    ]
    optimizer = training.optimizer(([{"params": others}] if others else []) + groups)
    for index, group in enumerate(training.parameter_groups):
        _check_settings(optimizer, group, f"training.parameter_groups.{index}")
    return optimizer


def make_scheduler(optimizer: Optimizer, num_steps: int, training: TrainingConfig) -> Any:
    """Build the scheduler, which is stepped ``num_steps`` times; ``None`` without one.

    Raises:
        LimbeckError: ``ReduceLROnPlateau`` is stepped by step, or the scheduler gives groups of different learning
            rates the same one.
    """
    if training.scheduler is None:
        return None
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    scheduler = training.scheduler(optimizer, num_steps)
    if isinstance(scheduler, ReduceLROnPlateau) and training.scheduler_interval == "step":
        raise LimbeckError("ReduceLROnPlateau needs the validation metric of each epoch: set `interval: epoch`")
    new_rates = {float(group["lr"]) for group in optimizer.param_groups}
    if len(set(rates)) > 1 and len(new_rates) == 1 and new_rates != {0.0}:
        raise LimbeckError(
            f"{type(scheduler).__name__} sets one learning rate for all of training.parameter_groups, whose own are "
            f"{', '.join(f'{rate:g}' for rate in rates)}: give it a list with one rate for each group, the group of "
            "all other parameters first"
        )
    return scheduler


def _named_parameters(distiller: Distiller) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters with the names that patterns match; those of peers without the name of the peer."""
    for full_name, parameter in distiller.named_parameters():
        name = full_name
        if full_name.startswith("student."):
            name = full_name.removeprefix("student.")
            name = name.partition(".")[2] if isinstance(distiller.student, PeerStudents) else name
        else:
            for prefix, replacement in _OBJECTIVE_PREFIXES:
                if full_name.startswith(prefix):
                    name = replacement + full_name.removeprefix(prefix)
                    break
        yield name, parameter


def _check_settings(optimizer: Optimizer, group: Mapping[str, Any], path: str) -> None:
    """Refuse settings that the optimizer has not, and values that its constructor refuses."""
    name = type(optimizer).__name__
    settings = {key: value for key, value in group.items() if key != "match"}
    for key in settings:
        if key not in optimizer.defaults:
            raise LimbeckError(
                f"{path}: {name} has no setting {key!r}; available: {suggest_names(key, optimizer.defaults)}"
            )
    arguments = inspect.signature(type(optimizer)).parameters
    defaults = {key: value for key, value in optimizer.defaults.items() if key in arguments}
    try:
        type(optimizer)([nn.Parameter(torch.zeros(1))], **defaults)
    except Exception:  # an optimizer of a user, with other arguments
        return
    try:
        type(optimizer)([nn.Parameter(torch.zeros(1))], **defaults | settings)
    except Exception as error:
        raise LimbeckError(f"{path}: {name}: {error}") from error
