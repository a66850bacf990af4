"""What a run was made of: the half of its record that is known before anything is measured, and repeats it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from limbeck._version import __version__
from limbeck.evaluation import (
    get_git_revision,
    get_hardware_info,
    get_package_versions,
    get_torch_flags,
    hash_environment,
)
from limbeck.recipe import Recipe, fill_defaults
from limbeck.recipe.schema import to_plain
from limbeck.utils.io import digest
from limbeck.workflows._job.job import Job

__all__ = ["collect_provenance", "describe_command", "hash_weight_files"]

_WEIGHT_KEYS = ("weights", "path")
"""Settings of a node that name a file with weights in it: `weights` of a network, `path` of an ONNX teacher."""
_RUN_WEIGHTS_FILE = "student.safetensors"


def collect_provenance(job: Job, command_info: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The record of ``job`` without its figures: call it before training, while the files are those that are read.

    Arguments:
        job: with its data loaded.
        command_info: what :func:`describe_command` gives, where a command was given.
    """
    data, recipe = job.data, job.recipe
    recipe_dict = to_plain(fill_defaults(recipe))
    normalization = data.normalization
    return {
        "limbeck": __version__, "name": recipe.name, "seed": recipe.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": 0.0, "recipe": recipe_dict,
        "command": command_info, "versions": get_package_versions(), "environment": hash_environment(),
        "source": get_git_revision(), "torch_flags": get_torch_flags(),
        "machine": get_hardware_info(), "distributed": _describe_processes(job),
        "weights": hash_weight_files(recipe_dict),
        "data": {
            "name": data.name, "classes": list(data.class_names), "shape": list(data.input_shape),
            "num_train": len(data.train),
            "num_labeled": data.num_labeled, "num_val": len(data.validation), "num_test": len(data.test),
            "fingerprint": data.fingerprint(),
            "normalization": {"mean": list(normalization.mean), "std": list(normalization.std)},
        },
    }  # fmt: skip


def describe_command(recipe: Recipe | str | Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """What was asked for; of a file the name only, since its folder is nobody's business."""
    name = None if isinstance(recipe, Recipe) or recipe is None else Path(recipe).name
    return {"recipe": name, "overrides": list(overrides)}


def hash_weight_files(recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Digests of the files that the networks of a plain recipe name, by dotted path; absent ones are left out."""
    paths = {f"student.{key}": path for key, path in _find_weight_files(recipe.get("student"))}
    for group in ("teachers", "assistants"):
        for name, node in (recipe.get(group) or {}).items():
            paths |= {f"{group}.{name}.{key}": path for key, path in _find_weight_files(node)}
    files = {config_path: path / _RUN_WEIGHTS_FILE if path.is_dir() else path for config_path, path in paths.items()}
    return {
        config_path: {"sha256": digest(file), "bytes": file.stat().st_size}
        for config_path, file in files.items()
        if file.is_file()
    }


def _find_weight_files(node: Any) -> Iterator[tuple[str, Path]]:
    for key in _WEIGHT_KEYS:
        if isinstance(node, Mapping) and isinstance(node.get(key), str):
            yield key, Path(node[key])


def _describe_processes(job: Job) -> dict[str, Any]:
    """How many processes trained; a batch is that of each, so a step uses so many times as many images."""
    world_size, config = job.processes.world_size, job.recipe.training
    strategy = "single_device" if world_size == 1 else "ddp" if config.strategy == "auto" else config.strategy
    return {
        "world_size": world_size,
        "strategy": strategy,
        "batch_size_per_process": config.batch_size,
        "global_batch_size": config.batch_size * world_size,
    }
