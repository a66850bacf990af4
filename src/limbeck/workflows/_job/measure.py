"""Measuring what a run made: quality on both parts, agreement, cost, and the verdict, as plain data for the record."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.protocols import Task
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
from limbeck.report import format_verdict, format_vs_no_assistants
from limbeck.teachers import ExternalTeacher
from limbeck.teachers.external.external_teacher import missing_rows

__all__ = ["NormalizedModel", "compare_models", "example_input", "evaluate_split", "add_thumbnails"]


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
        """The network's answer to ``pixels`` ``[batch, channels, ...]``."""
        return self.network((pixels - self.mean) / self.std)


def example_input(data: DataModule) -> Tensor:
    """One input, as networks see it."""
    return data.normalization.apply(data.validation.read(torch.tensor([0])))


def evaluate_split(
    network: nn.Module, data: DataModule, task: Task, split: Split
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Quality of ``network`` on ``part``, with its logits and the truth.

    Of a teacher that leaves samples unanswered it is that of its answers; the others have logits of zero.
    """
    logits, target = collect_logits(network, iterate_batches(split, data.normalization), task)
    scored_target = target
    if getattr(network, "allow_missing", False) and bool((unanswered_rows := missing_rows(logits)).any()):
        logits, scored_target = (
            logits.masked_fill(unanswered_rows[:, None], 0.0),
            target.masked_fill(unanswered_rows, UNLABELED),
        )
    return classification_metrics(logits, scored_target, class_names=data.class_names), logits, target


def compare_models(
    logits: Mapping[str, Tensor], target: Tensor, models: Mapping[str, Any], teacher: str | None
) -> dict[str, Any]:
    """Verdict and agreement on the test part: ``said`` has each network's logits by name."""
    comparison: dict[str, Any] = {"agreement": None, "disagreements": [], "verdict": {}}
    if teacher is not None:
        comparison["agreement"] = {"on": "test", **prediction_agreement(logits["distilled"], logits[teacher], target)}
        comparison["disagreements"] = find_disagreements(logits["distilled"], logits[teacher], target)
    gain = interval = gap = None
    if "alone" in logits:
        correct = {name: logits[name].argmax(dim=1) == target for name in ("distilled", "alone")}
        gain, low, high = paired_bootstrap(correct["distilled"], correct["alone"])
        interval = [low, high]
        if teacher is not None:
            accuracies = (models[name]["test"]["top1"] for name in ("alone", "distilled", teacher))
            gap = gap_recovered(*accuracies)
    comparison["verdict"] = {
        "sentence": format_verdict(models, gain, interval, gap), "gain_points": gain, "interval_points": interval,
        "gap_recovered": gap, "test": "paired bootstrap over the test samples, 95 %",
    }  # fmt: skip
    if "direct" in logits:
        correct = {name: logits[name].argmax(dim=1) == target for name in ("distilled", "direct")}
        gain_over_no_assistants, *interval_over_no_assistants = paired_bootstrap(
            correct["distilled"], correct["direct"]
        )
        comparison["verdict"]["over_direct"] = {
            "sentence": format_vs_no_assistants(gain_over_no_assistants, interval_over_no_assistants), "gain_points": gain_over_no_assistants, "interval_points": interval_over_no_assistants,
        }  # fmt: skip
    return comparison


def add_thumbnails(samples: list[dict[str, Any]], split: Split) -> list[dict[str, Any]]:
    """The samples of ``found`` with their pictures as PNG, at most 96 pixels a side."""
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
