"""``limbeck export``: exports the student of a run to ONNX and compares it with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.core.task import require_deployable
from limbeck.data import iterate_batches
from limbeck.export import export_task, to_onnx
from limbeck.models import load_weights
from limbeck.utils.eval_mode import eval_mode
from limbeck.workflows._job.job import Job

__all__ = ["export_onnx", "export_run"]


def export_run(folder: Path, *, output_path: Path | None = None, data_root: str | None = None) -> dict[str, Any]:
    """Export the student of the run in ``folder`` to ONNX, compare it with PyTorch, and print the differences."""
    job = Job.from_run(folder, data_root)
    path = output_path or folder / "student.onnx"
    info = export_onnx(job, load_weights(job.build_deployed_student(), folder).eval(), path)
    print(  # noqa: T201
        f"{path}: {info['bytes']:,} bytes, largest difference of an output {info['max_abs_difference']:.2g}, "
        f"same prediction for {info['label_agreement']:.1%} of {info['num_samples']} samples, "
        f"{info['latency_ms']['median']:.3f} ms per sample (median, 1 thread)"
    )
    return info


def export_onnx(job: Job, network: nn.Module, path: Path) -> dict[str, Any]:
    """Export the task's ``deployment_model`` of ``network``, which normalizes its inputs itself.

    It is compared with PyTorch on at most 2000 validation samples with one vector of logits each, else on at most 65.
    """
    task, validation = require_deployable(job.task, "export to ONNX"), job.data.validation
    model = task.deployment_model(network, job.data)
    if list(task.input_axes) == ["input"] and _has_class_logits(job, network):
        inputs = validation.read(torch.arange(min(len(validation), 2000)))
        return to_onnx(model, inputs[:1], path, check_inputs=inputs)
    sizes = [(0, 1), (1, 17), (17, 65)]  # one sample first, which the file must take as well
    indices = torch.arange(len(validation))
    subsets = [validation.subset(indices[start:end]) for start, end in sizes]
    batches = [batch for subset in subsets if len(subset) for batch in iterate_batches(subset, None)]
    return export_task(task, model, batches, path)


def _has_class_logits(job: Job, network: nn.Module) -> bool:
    """Whether the task has one vector of logits for each sample."""
    batch = next(iterate_batches(job.data.validation.subset(torch.tensor([0])), job.data.normalization))
    with eval_mode(network):
        return job.task.score(network, batch).logits is not None
