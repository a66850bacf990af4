"""What a run was made of: the half of its record that is known before anything is measured, and repeats it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from limbeck._version import __version__
from limbeck.evaluation import environment, flags, machine, source, versions
from limbeck.recipe import Recipe, resolved
from limbeck.recipe.schema import plain
from limbeck.utils.io import digest
from limbeck.workflows._job.job import Job

__all__ = ["command", "provenance", "weights"]

_FILES = ("weights", "path")
"""Settings of a node that name a file with weights in it: `weights` of a network, `path` of an ONNX teacher."""
_IN_A_RUN = "student.safetensors"


def provenance(job: Job, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The record of ``job`` without its figures: call it before training, while the files are those that are read.

    Arguments:
        job: with its data loaded.
        asked: what :func:`command` gives, where a command was given.
    """
    data, recipe = job.data, job.recipe
    whole = plain(resolved(recipe))
    spread = data.normalization
    return {
        "limbeck": __version__, "name": recipe.name, "seed": recipe.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": 0.0, "recipe": whole,
        "command": asked, "versions": versions(), "environment": environment(), "source": source(), "flags": flags(),
        "machine": machine(), "processes": _together(job), "weights": weights(whole),
        "data": {
            "name": data.name, "classes": list(data.classes), "shape": list(data.shape), "train": len(data.train),
            "labelled": data.labelled, "validation": len(data.validation), "test": len(data.sealed),
            "fingerprint": data.fingerprint(),
            "normalization": {"mean": list(spread.mean), "std": list(spread.std)},
        },
    }  # fmt: skip


def command(recipe: Recipe | str | Path | None, settings: Sequence[str]) -> dict[str, Any]:
    """What was asked for; of a file the name only, since its folder is nobody's business."""
    name = None if isinstance(recipe, Recipe) or recipe is None else Path(recipe).name
    return {"recipe": name, "settings": list(settings)}


def weights(recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Digests of the files that the networks of a plain recipe name, by dotted place; absent ones are left out."""
    named = {f"student.{key}": path for key, path in _named(recipe.get("student"))}
    for group in ("teachers", "assistants"):
        for name, node in (recipe.get(group) or {}).items():
            named |= {f"{group}.{name}.{key}": path for key, path in _named(node)}
    files = {place: path / _IN_A_RUN if path.is_dir() else path for place, path in named.items()}
    return {
        place: {"sha256": digest(file), "bytes": file.stat().st_size} for place, file in files.items() if file.is_file()
    }


def _named(node: Any) -> Iterator[tuple[str, Path]]:
    for key in _FILES:
        if isinstance(node, Mapping) and isinstance(node.get(key), str):
            yield key, Path(node[key])


def _together(job: Job) -> dict[str, Any]:
    """How many processes trained; a batch is that of each, so a step saw so many times as many pictures."""
    world, said = job.processes.world, job.recipe.training
    strategy = "one device" if world == 1 else "ddp" if said.strategy == "auto" else said.strategy
    return {"number": world, "strategy": strategy, "batch_each": said.batch, "batch_together": said.batch * world}
