"""Going back to a finished run: measuring it again, exporting it again; and looking into any model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from limbeck.core.errors import LimbeckError
from limbeck.features import list_layers
from limbeck.models import load_weights
from limbeck.recipe import load_recipe
from limbeck.recipe.resolve_node import resolve_node
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import evaluate_split
from limbeck.workflows.distill.run import export_onnx, hash_networks

__all__ = ["evaluate_run", "export_run", "load_finished_run", "print_layers"]


def evaluate_run(folder: Path, *, split: str = "validation", data_root: str | None = None) -> dict[str, Any]:
    """Measure the student of the run in ``folder`` on the validation split, and print the metrics.

    ``split="test"`` is an error where the test set was read already, as it is at the end of every finished run.
    """
    job, student = _load_student(folder, data_root)
    eval_data = (
        job.data.validation if split == "validation" else job.data.test.unlock(hash_networks({"distilled": student}))
    )
    metrics, _, _ = evaluate_split(student, job.data, job.task, eval_data)
    scalar_metrics = {"num_samples": metrics["num_samples"], **metrics["metrics"]}
    _print(f"{folder}, {split} split:")
    for name, value in scalar_metrics.items():
        _print(f"  {name:<10} {value if isinstance(value, int | None) else f'{value:.4f}'}")
    _compare_with_record(folder, split, metrics)
    if split == "test":
        job.data.test.close()
    return metrics


def export_run(folder: Path, *, output_path: Path | None = None, data_root: str | None = None) -> dict[str, Any]:
    """Write the student of the run in ``folder`` as ONNX, checked against torch, and print what was found."""
    job, student = _load_student(folder, data_root)
    path = output_path or folder / "student.onnx"
    export_info = export_onnx(job, student, path)
    _print(
        f"{path}: {export_info['bytes']:,} bytes, largest difference of a logit "
        f"{export_info['max_abs_difference']:.2g}, "
        f"labels agree on {export_info['label_agreement']:.1%} of {export_info['num_samples']}, "
        f"{export_info['latency_ms']['median']:.3f} ms per image (median, 1 thread)"
    )
    return export_info


def print_layers(model: str, shape: str, *, plugins: Sequence[str] = ()) -> None:
    """Print every layer of ``model`` whose features can be recorded, with the shape they have for one input."""
    input_shape = _parse_shape(shape)
    library, _, name = model.partition(":")
    node: dict[str, Any] = (
        {"use": library, "name": name} if library in ("torchvision", "timm") and name else {"use": model}
    )
    build_settings = {"classes": 10, "channels": input_shape[0]}
    network = resolve_node(node, "model", plugins=plugins, provided=build_settings, config_path="MODEL").build()
    try:
        rows = list_layers(network, torch.zeros(1, *input_shape))
    except Exception as error:  # a network may refuse an input with any error there is
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise LimbeckError(f"{model} does not take an input of {shape} ({line[:160]}): give --input another") from error
    width = max(len(path) for path, *_ in rows)
    kind_width = max(len(kind) for _, kind, *_ in rows)
    for path, kind, output_shape, num_calls in rows:
        shape_text = (
            "did not run"
            if not num_calls
            else "no tensor"
            if output_shape is None
            else "×".join(map(str, output_shape[1:]))
        )
        _print(
            f"{path:<{width}}  {kind:<{kind_width}}  "
            f"{shape_text}{f'   runs {num_calls} times: write {path}@0 …' if num_calls > 1 else ''}"
        )


def load_finished_run(folder: Path, data_root: str | None) -> Job:
    """The finished run in ``folder``, with its data loaded."""
    recipe = folder / "recipe.yaml"
    if not recipe.exists():
        raise LimbeckError(f"{folder} is no run folder: it has no recipe.yaml")
    if not (folder / "record.json").exists():
        raise LimbeckError(f"{folder} is not finished: go on with limbeck distill --resume --out {folder}")
    return Job.from_recipe(load_recipe(recipe, [] if data_root is None else [f"data.root={data_root}"]), folder)


def _load_student(folder: Path, data_root: str | None) -> tuple[Job, torch.nn.Module]:
    job = load_finished_run(folder, data_root)
    return job, load_weights(job.build_deployed(), folder).eval()


def _compare_with_record(folder: Path, split: str, metrics: dict[str, Any]) -> None:
    try:
        recorded = json.loads((folder / "record.json").read_text())["models"]["distilled"][split]
    except (OSError, ValueError, KeyError):
        return
    if recorded is not None:
        is_same = abs(recorded["metrics"]["accuracy"] - metrics["metrics"]["accuracy"]) < 1e-9
        _print(
            f"the record has {recorded['metrics']['accuracy']:.4f}: "
            f"{'the same' if is_same else 'NOT the same; did the data change?'}"
        )


def _parse_shape(text: str) -> list[int]:
    try:
        shape = [int(size) for size in text.lower().replace("×", "x").split("x")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1:
        raise LimbeckError(f"--input is the shape of one input, such as 3x32x32, not {text!r}")
    return shape


def _print(text: str) -> None:
    print(text)  # noqa: T201
