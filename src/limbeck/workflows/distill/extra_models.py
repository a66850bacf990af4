"""What a run makes in addition to its student: peers that learned with it, early exits, the generations together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from limbeck.core.roles import Role
from limbeck.export import to_onnx
from limbeck.models import save_weights
from limbeck.models.ensemble_model import EnsembleModel
from limbeck.utils.io import write_atomically
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import NormalizedModel, evaluate_split, measure_inference_cost

__all__ = ["save_extra_models"]


def save_extra_models(
    job: Job, weights: Path, networks: Mapping[str, nn.Module] = MappingProxyType({})
) -> dict[str, Any]:  # fmt: skip
    """Write what there is, measured on the validation split, and return it for the record; the test set stays closed.

    ``peers.json`` and ``WEIGHTS/NAME.safetensors`` for each peer; ``early_exits.json`` for the early exits, which are
    in the checkpoint of the training, and with ``export`` ``student.early_exit-NAME.onnx`` for each, checked like the
    student. ``ensemble.json`` for all generations together, where ``networks`` holds them.
    """
    peers = {}
    for name, network in job.peers.items():
        peers[name] = _measure_extra_model(job, network, "parameters", "flops", "bytes", "latency_ms")
        save_weights(network, weights / f"{name}.safetensors", metadata={"recipe": job.recipe.name})
    early_exits = {}
    for name, network in job.early_exits.items():
        early_exits[name] = _measure_extra_model(
            job, network, "flops", "latency_ms"
        )  # its weights are mostly the student's
        if "onnx" in job.recipe.export.to:
            pixels = job.data.validation.read(torch.arange(min(len(job.data.validation), 2000)))
            deployed = NormalizedModel(network, job.data.normalization, num_dims=pixels.ndim - 1)
            file = job.run_dir / f"student.early_exit-{name}.onnx"
            early_exits[name]["onnx"] = to_onnx(deployed, pixels[:1], file, check_inputs=pixels)
    ensemble = {}
    if job.recipe.generations is not None and networks:
        generations = [networks[name] for name in (*job.recipe.teachers, *job.recipe.assistants, Role.DISTILLED)]
        ensemble = _measure_extra_model(job, EnsembleModel(generations), "parameters", "flops", "latency_ms")
    extra_models: dict[str, Any] = {"peers": peers, "early_exits": early_exits, "ensemble": ensemble}
    extra_models = {kind: entry for kind, entry in extra_models.items() if entry}
    for kind, entry in extra_models.items():
        write_atomically(job.run_dir / f"{kind}.json", partial(_write_text, json.dumps(entry, indent=1)))
    return extra_models


def _write_text(text: str, path: Path) -> None:
    path.write_text(text)


def _measure_extra_model(job: Job, network: nn.Module, *keys: str) -> dict[str, Any]:
    network.cpu().eval()
    metrics, cost = (
        evaluate_split(network, job.data, job.task, job.data.validation)[0],
        measure_inference_cost(network, job.data),
    )
    return {
        **{name: cost[name] for name in keys},
        "validation": {"metrics": {name: metrics["metrics"][name] for name in ("accuracy", "nll", "ece")}},
    }
