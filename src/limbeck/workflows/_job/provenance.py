"""What a run was made of: the part of its record that is known before anything is measured, and repeats it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck._version import __version__
from limbeck.core.errors import LimbeckError
from limbeck.core.task import EvaluableTask
from limbeck.data.image_preprocessing import ImagePreprocessing
from limbeck.evaluation import (
    get_git_revision,
    get_hardware_info,
    get_package_versions,
    get_torch_flags,
    hash_environment,
)
from limbeck.models.weights import find_weights_file
from limbeck.recipe import fill_defaults
from limbeck.recipe.schema import to_plain
from limbeck.report.record_io import load_json
from limbeck.utils.io import digest, write_text
from limbeck.utils.settings import Strategy
from limbeck.workflows._job.facts import data_facts
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.run_context import RunContext

_MAX_FACTS = 1000


def collect_provenance(job: Job, command_info: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The record of ``job`` without its metrics; call it before training, while the files are those that are read."""
    recipe, world_size = job.recipe, job.processes.world_size
    recipe_dict, training = to_plain(fill_defaults(recipe)), recipe.training
    batch_size = training.batch_size if training.batch_tokens is None else None
    return {
        "name": recipe.name, "seed": recipe.seed, "recipe": recipe_dict, "command": command_info,
        "distributed": describe_processes(world_size, batch_size, training.strategy),
        "weights": hash_weight_files(recipe_dict), **describe_run(job),
    }  # fmt: skip


def describe_run(run: RunContext) -> dict[str, Any]:
    """What a record says of the data, the task and the machine of a run."""
    data, normalization = run.data, run.data.normalization
    preprocessing = ImagePreprocessing.from_data(data)
    return {
        "limbeck": __version__, "created": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": 0.0,
        "versions": get_package_versions(), "environment": hash_environment(), "source": get_git_revision(),
        "torch_flags": get_torch_flags(), "machine": get_hardware_info(),
        "data": {
            "name": data.name, "classes": list(data.class_names), "shape": list(data.input_shape),
            "num_train": len(data.train), "num_labeled": data.num_labeled, "num_val": len(data.validation),
            "num_test": len(data.test), "fingerprint": data.fingerprint(),
            "normalization": {"mean": list(normalization.mean), "std": list(normalization.std)},
            "preprocessing": None if preprocessing is None else preprocessing.to_dict(),
            "facts": _short_facts(data_facts(data)),
        },
        **describe_task(run.task),
    }  # fmt: skip


def describe_processes(world_size: int, batch_size: int | None, strategy: Strategy = "auto") -> dict[str, Any]:
    """``distributed`` of the record: the number of processes and their batches."""
    multi_process_strategy = "ddp" if strategy == "auto" else strategy
    return {
        "world_size": world_size, "strategy": "single_device" if world_size == 1 else multi_process_strategy,
        "batch_size_per_process": batch_size,
        "global_batch_size": None if batch_size is None else batch_size * world_size,
    }  # fmt: skip


def describe_task(task: EvaluableTask) -> dict[str, Any]:
    """``task``, ``metric_info`` and ``primary_metric`` of the record."""
    return {
        "task": {
            "name": type(task).__name__,
            "settings": repr(task),
            "supervised_loss": task.supervised_loss,
            "pipeline_tag": getattr(task, "pipeline_tag", ""),
            "monitored_metrics": {spec.name: spec.to_dict() for spec in task.monitored_metrics},
        },
        "metric_info": {spec.name: spec.to_dict() for spec in task.metric_specs},
        "primary_metric": task.primary_metric.name,
    }


def write_task_file(task: EvaluableTask, run_dir: Path) -> None:
    """Write ``run_dir/task.json``, which names the metrics of a run that has no record yet."""
    write_text(run_dir / "task.json", json.dumps(describe_task(task), indent=1))


def require_same_data(run_dir: Path, fingerprint: str, *, resume: bool = True) -> None:
    """Write the fingerprint of the data into ``run_dir``, so that a resumed run trains on the same.

    Raises:
        LimbeckError: with ``resume``, the run was begun with other data.
    """
    path = run_dir / "checkpoint" / "data.json"
    begun = load_json(path) if resume and path.exists() else None
    if isinstance(begun, dict) and begun.get("fingerprint") not in (None, fingerprint):
        raise LimbeckError(
            f"the data must be that which the run in {run_dir} was begun with, got other or changed data: put the old "
            "data back, or begin again in another folder"
        )
    write_text(path, json.dumps({"fingerprint": fingerprint}))


def _short_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Without long lists, such as a vocabulary."""
    return {name: value for name, value in facts.items() if not (isinstance(value, list) and len(value) > _MAX_FACTS)}


def hash_weight_files(recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Digests of the weight files that the networks of a plain recipe name, by dotted path; absent ones are omitted."""
    nodes = {"student": recipe.get("student")}
    for group in ("teachers", "assistants"):
        nodes |= {f"{group}.{name}": node for name, node in (recipe.get(group) or {}).items()}
    files = {}
    for name, node in nodes.items():
        for key in ("weights", "path"):  # of a network, and of an ONNX teacher or a folder of transformers
            if isinstance(node, Mapping) and isinstance(node.get(key), str):
                path = Path(node[key])
                with suppress(LimbeckError):  # a folder of other files
                    files[f"{name}.{key}"] = find_weights_file(path) if path.is_dir() else path
    return {
        name: {"sha256": digest(file), "bytes": file.stat().st_size} for name, file in files.items() if file.is_file()
    }


def hash_networks(networks: Mapping[str, nn.Module]) -> str:
    """A hash of all weights, which the log of the held-out test set stores."""
    sha256 = hashlib.sha256()
    for network in networks.values():
        for tensor in network.state_dict().values():
            sha256.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()
