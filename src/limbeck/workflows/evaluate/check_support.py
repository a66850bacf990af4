"""Which tasks the checks of ``limbeck evaluate`` support."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn

from limbeck import evaluation
from limbeck.core.errors import LimbeckError
from limbeck.core.task import DeployableTask, EvaluableTask
from limbeck.data import DataModule, iterate_batches

__all__ = ["EVALUATION_CHECKS", "NEEDS", "require_supported", "unsupported_checks"]

_CLASS_OF_IMAGE = "images of one class each"
NEEDS: Mapping[str, str] = {
    "attacks": _CLASS_OF_IMAGE,
    "corruptions": "images",
    "noise": "images",
    "shift": _CLASS_OF_IMAGE,
    "ood": _CLASS_OF_IMAGE,
    "calibration": "one class for each sample",
    "efficiency": "a task with model_inputs and deployment_model",
}
"""What each check of ``limbeck evaluate`` needs of the task and its data."""
EVALUATION_CHECKS = tuple(name for name in NEEDS if name != "efficiency")


def unsupported_checks(network: nn.Module, data: DataModule, task: EvaluableTask) -> dict[str, str]:
    """The checks that do not support ``task`` on ``data``, each with what it :data:`NEEDS`.

    Args:
        network: a network of the task, trained or not.
        data: the data of the run.
        task: the task of the run.
    """
    batch = next(iterate_batches(data.validation.subset(torch.arange(1)), data.normalization))
    has_classes = data.validation.has_class_targets and evaluation.score_batch(network, batch, task).logits is not None
    has_images = data.validation.sequences is None and len(getattr(task, "input_axes", ("input",))) == 1
    met = {
        _CLASS_OF_IMAGE: has_images and has_classes, "images": has_images, NEEDS["calibration"]: has_classes,
        NEEDS["efficiency"]: isinstance(task, DeployableTask),
    }  # fmt: skip
    return {name: need for name, need in NEEDS.items() if not met[need]}


def require_supported(checks: Collection[str], unsupported: Mapping[str, str], task: EvaluableTask) -> None:
    """Raise ``LimbeckError`` if one of ``checks`` is among :func:`unsupported_checks`."""
    refused = [name for name in NEEDS if name in checks and name in unsupported]
    if not refused:
        return
    needs = list(dict.fromkeys(unsupported[name] for name in refused))
    grouped = {need: [name for name in refused if unsupported[name] == need] for need in needs}
    reasons = " and ".join(
        f"{', '.join(names)} need{'s' if len(names) == 1 else ''} {need}" for need, names in grouped.items()
    )
    possible = ", ".join(name for name in NEEDS if name not in unsupported) or "none"
    pronoun = "it" if len(refused) == 1 else "them"
    raise LimbeckError(
        f"{reasons}, and the task of this run is {type(task).__name__}: remove {pronoun}; checks for this task: "
        f"{possible}"
    )
