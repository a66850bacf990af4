"""What a run makes beside its student: peers that learned with it, early exits, the generations together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from limbeck.export import to_onnx
from limbeck.models import save_weights
from limbeck.models.ensemble_model import Ensemble
from limbeck.utils.io import write_atomically
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import Deployed, costs, figures

__all__ = ["keep_beside"]


def keep_beside(
    job: Job, weights: Path, networks: Mapping[str, nn.Module] = MappingProxyType({})
) -> dict[str, Any]:  # fmt: skip
    """Write what there is, measured on the validation part, and give it for the record; the test part stays closed.

    ``peers.json`` and ``WEIGHTS/NAME.safetensors`` for each peer; ``exits.json`` for the early exits, which are in
    the checkpoint of the training, and with ``export`` ``student.exit-NAME.onnx`` for each, checked like the student.
    ``ensemble.json`` for all generations together, where ``networks`` holds them.
    """
    peers = {}
    for name, network in job.peers.items():
        peers[name] = _measured(job, network, "parameters", "flops", "bytes", "latency_ms")
        save_weights(network, weights / f"{name}.safetensors", metadata={"recipe": job.recipe.name})
    exits = {}
    for name, network in job.exits.items():
        exits[name] = _measured(job, network, "flops", "latency_ms")  # its weights are mostly the student's
        if "onnx" in job.recipe.export.to:
            pixels = job.data.validation.read(torch.arange(min(len(job.data.validation), 2000)))
            deployed = Deployed(network, job.data.normalization, rank=pixels.ndim - 1)
            file = job.folder / f"student.exit-{name}.onnx"
            exits[name]["onnx"] = to_onnx(deployed, pixels[:1], file, examples=pixels)
    ensemble = {}
    if job.recipe.generations is not None and networks:
        born = [networks[name] for name in (*job.recipe.teachers, *job.recipe.assistants, "distilled")]
        ensemble = _measured(job, Ensemble(born), "parameters", "flops", "latency_ms")
    whole: dict[str, Any] = {"peers": peers, "exits": exits, "ensemble": ensemble}
    whole = {what: found for what, found in whole.items() if found}
    for what, found in whole.items():
        write_atomically(job.folder / f"{what}.json", partial(_write, json.dumps(found, indent=1)))
    return whole


def _write(text: str, path: Path) -> None:
    path.write_text(text)


def _measured(job: Job, network: nn.Module, *wanted: str) -> dict[str, Any]:
    network.cpu().eval()
    quality, cost = figures(network, job.data, job.task, job.data.validation)[0], costs(network, job.data)
    return {
        **{name: cost[name] for name in wanted},
        "validation": {name: quality[name] for name in ("top1", "nll", "ece")},
    }
