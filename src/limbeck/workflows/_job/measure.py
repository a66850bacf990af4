"""Measuring what a run made: quality on both parts, agreement, cost, and the verdict, as plain data for the record."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.protocols import Task
from limbeck.core.roles import Role
from limbeck.data import DataModule, Normalization, Split, iterate_batches
from limbeck.data.split import UNLABELED
from limbeck.evaluation import (
    classification_metrics,
    collect_logits,
    find_disagreements,
    gap_recovered,
    measure_cost,
    measure_latency,
    paired_bootstrap,
    prediction_agreement,
)  # fmt: skip
from limbeck.report.record import METRIC_INFO
from limbeck.report.verdict import classify_interval, format_verdict, format_vs_no_assistants
from limbeck.teachers import ExternalTeacher
from limbeck.teachers.external.external_teacher import missing_rows

__all__ = ["NormalizedModel", "add_thumbnails", "compare_models", "evaluate_split", "example_input", "group_metrics"]


class NormalizedModel(nn.Module):
    """A network as it is handed over: takes pixels in 0..1, and takes mean and spread off by itself."""

    def __init__(self, network: nn.Module, normalization: Normalization, *, num_dims: int) -> None:
        super().__init__()
        self.network = network
        shape = (1, -1) + (1,) * (num_dims - 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(normalization.mean).reshape(shape))
        self.register_buffer("std", torch.tensor(normalization.std).reshape(shape))

    def forward(self, pixels: Tensor) -> Any:
        """The network's output for ``pixels`` ``[batch, channels, ...]``."""
        return self.network((pixels - self.mean) / self.std)


def example_input(data: DataModule) -> Tensor:
    """One input, as networks see it."""
    return data.normalization.apply(data.validation.read(torch.tensor([0])))


def evaluate_split(
    network: nn.Module, data: DataModule, task: Task, split: Split
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Quality of ``network`` on ``split``, with its logits and the target.

    Of a teacher that misses samples it is that of its outputs; the others have logits of zero.
    """
    logits, target = collect_logits(network, iterate_batches(split, data.normalization), task)
    scored_target = target
    if getattr(network, "allow_missing", False) and bool((missing := missing_rows(logits)).any()):
        logits, scored_target = (
            logits.masked_fill(missing[:, None], 0.0),
            target.masked_fill(missing, UNLABELED),
        )
    metrics = classification_metrics(logits, scored_target, class_names=data.class_names)
    return group_metrics(metrics), logits, target


def group_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """``metrics`` of one split as the record holds them: those of ``metric_info`` in a mapping of their own."""
    grouped = {name: metrics[name] for name in METRIC_INFO if name in metrics}
    return {"metrics": grouped, **{name: value for name, value in metrics.items() if name not in grouped}}


def compare_models(
    logits: Mapping[str, Tensor], target: Tensor, models: Mapping[str, Any], teacher: str | None
) -> dict[str, Any]:
    """Verdict and agreement on the test set: ``logits`` has those of each network by name."""
    comparison: dict[str, Any] = {"agreement": None, "disagreements": [], "verdict": {}}
    if teacher is not None:
        comparison["agreement"] = {
            "split": "test",
            **prediction_agreement(logits["distilled"], logits[teacher], target),
        }
        comparison["disagreements"] = find_disagreements(logits["distilled"], logits[teacher], target)
    gain = interval = gap = None
    if Role.BASELINE in logits:
        correct = {name: logits[name].argmax(dim=1) == target for name in (Role.DISTILLED, Role.BASELINE)}
        gain, low, high = paired_bootstrap(correct[Role.DISTILLED], correct[Role.BASELINE])
        interval = [low, high]
        if teacher is not None:
            accuracies = (
                models[name]["test"]["metrics"]["accuracy"] for name in (Role.BASELINE, Role.DISTILLED, teacher)
            )
            gap = gap_recovered(*accuracies)
    comparison["verdict"] = {
        "outcome": classify_interval(interval), "text": format_verdict(models, gain, interval, gap),
        "gain_points": gain, "interval_points": interval,
        "gap_recovered": gap, "statistical_test": "paired bootstrap over the test samples, 95 %",
    }  # fmt: skip
    if Role.NO_ASSISTANTS in logits:
        correct = {name: logits[name].argmax(dim=1) == target for name in (Role.DISTILLED, Role.NO_ASSISTANTS)}
        gain_over_no_assistants, *interval_over_no_assistants = paired_bootstrap(
            correct[Role.DISTILLED], correct[Role.NO_ASSISTANTS]
        )
        comparison["verdict"]["vs_no_assistants"] = {
            "outcome": classify_interval(interval_over_no_assistants),
            "text": format_vs_no_assistants(gain_over_no_assistants, interval_over_no_assistants),
            "gain_points": gain_over_no_assistants, "interval_points": interval_over_no_assistants,
        }  # fmt: skip
    return comparison


def add_thumbnails(samples: list[dict[str, Any]], split: Split) -> list[dict[str, Any]]:
    """``samples`` with their images as PNG, at most 96 pixels a side."""
    return [{**sample, "png": _encode_png(split.read(torch.tensor([sample["index"]]))[0])} for sample in samples]


def measure_inference_cost(network: nn.Module, data: DataModule) -> dict[str, Any]:
    """Parameters, FLOPs, size and latency of ``network``; of one that only answers, the latency."""
    if isinstance(network, ExternalTeacher):
        sample = example_input(data)
        return {
            "parameters": None, "flops": None, "bytes": None, "latency_ms": measure_latency(lambda: network(sample)),
            "warnings": [],
        }  # fmt: skip
    return measure_cost(network, example_input(data))


def _encode_png(pixels: Tensor) -> str:
    from PIL import Image

    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        return ""
    values = (pixels * 255).round().to(torch.uint8)
    image = Image.fromarray(values[0].numpy() if len(values) == 1 else values.permute(1, 2, 0).numpy())
    image.thumbnail((96, 96))
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
