"""Measuring what a run made: quality on both parts, agreement, cost, and the verdict, as plain data for the record."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.protocols import Task
from limbeck.data import Data, Normalization, Part, batches
from limbeck.data.split import UNLABELLED
from limbeck.evaluation import (
    agreement,
    cost,
    disagreements,
    gap_recovered,
    latency,
    paired_bootstrap,
    predictions,
    quality,
)  # fmt: skip
from limbeck.report import over_direct, verdict
from limbeck.teachers import Foreign
from limbeck.teachers.external.external_teacher import unanswered

__all__ = ["Deployed", "compare", "example", "figures", "pictures"]


class Deployed(nn.Module):
    """A network as it is handed over: takes pixels in 0..1, and takes mean and spread off by itself."""

    def __init__(self, network: nn.Module, normalization: Normalization, *, rank: int) -> None:
        super().__init__()
        self.network = network
        shape = (1, -1) + (1,) * (rank - 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(normalization.mean).reshape(shape))
        self.register_buffer("std", torch.tensor(normalization.std).reshape(shape))

    def forward(self, pixels: Tensor) -> Any:
        """The network's answer to ``pixels`` ``[batch, channels, ...]``."""
        return self.network((pixels - self.mean) / self.std)


def example(data: Data) -> Tensor:
    """One input, as networks see it."""
    return data.normalization.apply(data.validation.read(torch.tensor([0])))


def figures(network: nn.Module, data: Data, task: Task, part: Part) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Quality of ``network`` on ``part``, with its logits and the truth.

    Of a teacher that leaves samples unanswered it is that of its answers; the others have logits of zero.
    """
    logits, target = predictions(network, batches(part, data.normalization), task)
    counted = target
    if getattr(network, "partial", False) and bool((gone := unanswered(logits)).any()):
        logits, counted = logits.masked_fill(gone[:, None], 0.0), target.masked_fill(gone, UNLABELLED)
    return quality(logits, counted, classes=data.classes), logits, target


def compare(
    said: Mapping[str, Tensor], target: Tensor, models: Mapping[str, Any], teacher: str | None
) -> dict[str, Any]:
    """Verdict and agreement on the test part: ``said`` has each network's logits by name."""
    found: dict[str, Any] = {"agreement": None, "disagreements": [], "verdict": {}}
    if teacher is not None:
        found["agreement"] = {"on": "test", **agreement(said["distilled"], said[teacher], target)}
        found["disagreements"] = disagreements(said["distilled"], said[teacher], target)
    gain = interval = share = None
    if "alone" in said:
        right = {name: said[name].argmax(dim=1) == target for name in ("distilled", "alone")}
        gain, low, high = paired_bootstrap(right["distilled"], right["alone"])
        interval = [low, high]
        if teacher is not None:
            tops = (models[name]["test"]["top1"] for name in ("alone", "distilled", teacher))
            share = gap_recovered(*tops)
    found["verdict"] = {
        "sentence": verdict(models, gain, interval, share), "gain_points": gain, "interval_points": interval,
        "gap_recovered": share, "test": "paired bootstrap over the test samples, 95 %",
    }  # fmt: skip
    if "direct" in said:
        right = {name: said[name].argmax(dim=1) == target for name in ("distilled", "direct")}
        more, *ends = paired_bootstrap(right["distilled"], right["direct"])
        found["verdict"]["over_direct"] = {
            "sentence": over_direct(more, ends), "gain_points": more, "interval_points": ends,
        }  # fmt: skip
    return found


def pictures(found: list[dict[str, Any]], part: Part) -> list[dict[str, Any]]:
    """The samples of ``found`` with their pictures as PNG, at most 96 pixels a side."""
    return [{**one, "png": _png(part.read(torch.tensor([one["index"]]))[0])} for one in found]


def costs(network: nn.Module, data: Data) -> dict[str, Any]:
    """Parameters, FLOPs, size and latency of ``network``; of one that only answers, the latency."""
    if isinstance(network, Foreign):
        one = example(data)
        return {
            "parameters": None, "flops": None, "bytes": None, "latency_ms": latency(lambda: network(one)),
            "warnings": [],
        }  # fmt: skip
    return cost(network, example(data))


def _png(pixels: Tensor) -> str:
    from PIL import Image

    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        return ""
    values = (pixels * 255).round().to(torch.uint8)
    image = Image.fromarray(values[0].numpy() if len(values) == 1 else values.permute(1, 2, 0).numpy())
    image.thumbnail((96, 96))
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
