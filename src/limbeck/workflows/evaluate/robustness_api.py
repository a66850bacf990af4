"""How good networks are where images are not those they were trained on, side by side and with intervals."""

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
    network: nn.Module, data: DataModule, task: Task, split: Split, *, checks: Sequence[str] | None = None,
    config: RobustnessConfig = RobustnessConfig()
) -> dict[str, Any]:  # fmt: skip
    """Every metric of ``config`` for one network, which takes inputs as ``data`` normalizes them.

    Args:
        network: takes normalized inputs.
        data: gives the normalization, the classes, and the validation split that a temperature is fitted on.
        task: what a batch means.
        split: what is measured on: the validation split, or the test set at its one opening.
        checks: out of :data:`CHECKS`, in place of ``config.checks``.
        config: what to measure, and how.

    Returns:
        ``num_samples``, ``clean_accuracy`` and one entry for each of ``config.checks``, as in ``evaluation.json``.

    Raises:
        LimbeckError: no sample of ``split`` has a label; or its inputs are not in 0..1, and attacks, corruptions,
            noise, or uniform noise as OOD data are configured.
    """
    config = config if checks is None else replace(config, checks=tuple(checks))
    metrics: dict[str, Any] = evaluate_side_by_side({"network": network}, data, task, split, config=config)["models"][
        "network"
    ]
    return metrics


def evaluate_side_by_side(
    networks: Mapping[str, nn.Module], data: DataModule, task: Task, split: Split, *,
    config: RobustnessConfig = RobustnessConfig(),
    pairs: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:  # fmt: skip
    """:func:`evaluate_robustness` of several networks on the same images, and the differences of ``pairs`` of them.

    Returns:
        ``models``, by name; and ``differences``, a list with ``model``, ``reference``, ``metric``, ``unit``
        (``points`` of accuracy, or ``1``), ``difference``, ``low``, ``high`` (95 %, over the samples) and
        ``num_samples``.
    """
    labeled_split = split.select_labeled()
    if not len(labeled_split):
        raise LimbeckError("there is nothing to measure on: no sample of the split has a label")
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
        name: {"num_samples": len(targets.subset), "clean_accuracy": accuracy(correct)}
        for name, correct in clean_correct.items()
    }
    differences = accuracy_differences("clean_accuracy", clean_correct, pairs)
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
