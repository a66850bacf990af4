"""What networks are worth where pictures are not those they learned from, side by side and with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Task
from limbeck.data import DataModule, Split
from limbeck.workflows._job.measure import NormalizedModel
from limbeck.workflows.evaluate.robustness_sections import (
    CHECK_FUNCTIONS,
    CHECKS,
    EvalTargets,
    RobustnessConfig,
    accuracy,
    accuracy_differences,
    predict_split,
    select_samples,
)

__all__ = ["CHECKS", "LogitsModel", "RobustnessConfig", "evaluate_robustness", "evaluate_side_by_side"]


def evaluate_robustness(
    network: nn.Module, data: DataModule, task: Task, split: Split, *, checks: Sequence[str] | None = None, config: RobustnessConfig = RobustnessConfig()
) -> dict[str, Any]:  # fmt: skip
    """Every figure of ``asked`` for one network, which takes inputs as ``data`` normalises them.

    Args:
        network: answers normalised inputs.
        data: gives the normalisation, the classes, and the validation part that a temperature is fitted on.
        task: what a batch means.
        part: what is measured on: the validation part, or the test part at its one opening.
        what: out of :data:`WHAT`, in place of ``asked.what``.
        asked: what to measure, and how.

    Returns:
        ``examples``, ``clean`` and one entry for each of ``asked.what``, as in ``evaluation.json``.

    Raises:
        LimbeckError: no sample of ``part`` has a label; or its inputs are not in 0..1, and attacks, corruptions, noise,
            or uniform noise from outside are asked for.
    """
    config = config if checks is None else replace(config, checks=tuple(checks))
    metrics: dict[str, Any] = evaluate_side_by_side({"network": network}, data, task, split, config=config)["models"][
        "network"
    ]
    return metrics


def evaluate_side_by_side(
    networks: Mapping[str, nn.Module], data: DataModule, task: Task, split: Split, *, config: RobustnessConfig = RobustnessConfig(),
    pairs: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:  # fmt: skip
    """:func:`robustness` of several networks on the same pictures, and the differences of ``pairs`` of them.

    Returns:
        ``models``, by name; and ``differences``, a list with ``of``, ``against``, ``figure``, ``unit`` (``points`` of
        accuracy, or ``1``), ``difference``, ``low``, ``high`` (95 %, over the samples) and ``n``.
    """
    labeled_split = split.select_labeled()
    if not len(labeled_split):
        raise LimbeckError("there is nothing to measure on: no sample of the part has a label")
    targets = EvalTargets(
        {name: LogitsModel(network, data, task) for name, network in networks.items()},
        data,
        split,
        select_samples(labeled_split, config),
    )
    clean_correct = {
        name: predict_split(network, targets.subset).argmax(dim=1) == targets.subset.target
        for name, network in targets.networks.items()
    }
    models: dict[str, dict[str, Any]] = {
        name: {"examples": len(targets.subset), "clean": accuracy(correct)} for name, correct in clean_correct.items()
    }
    differences = accuracy_differences("clean", clean_correct, pairs)
    for check in (name for name in CHECKS if name in config.checks):
        check_metrics, check_differences = CHECK_FUNCTIONS[check](targets, config, pairs)
        differences += check_differences
        for name, network_metrics in check_metrics.items():
            models[name][check] = network_metrics
    return {"models": models, "differences": differences}


@final
class LogitsModel(nn.Module):
    """A network of a run that takes pixels in 0..1 and gives logits ``[n, classes]``, as the task reads them."""

    def __init__(self, network: nn.Module, data: DataModule, task: Task) -> None:
        super().__init__()
        self.model, self.task = NormalizedModel(network, data.normalization, num_dims=len(data.input_shape)), task
        if (parameter := next(iter(network.parameters()), None)) is not None:
            self.model.to(parameter.device)

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits for ``pixels`` ``[n, channels, ...]``."""
        return self.task.outputs(self.model, {"input": pixels}).require_logits()
