"""``limbeck export``: exports the student of a run to ONNX and compares it with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.core.task import require_deployable
from limbeck.export import to_onnx
from limbeck.models import load_weights
from limbeck.workflows._job.job import Job

__all__ = ["export_onnx", "export_run"]


def export_run(folder: Path, *, output_path: Path | None = None, data_root: str | None = None) -> dict[str, Any]:
    """Export the student of the run in ``folder`` to ONNX, compare it with PyTorch, and print the differences."""
    job = Job.from_run(folder, data_root)
    path = output_path or folder / "student.onnx"
    info = export_onnx(job, load_weights(job.build_deployed_student(), folder).eval(), path)
    print(  # noqa: T201
        f"{path}: {info['bytes']:,} bytes, largest difference of the logits {info['max_abs_difference']:.2g}, "
        f"same predicted class for {info['label_agreement']:.1%} of {info['num_samples']} samples, "
        f"{info['latency_ms']['median']:.3f} ms per image (median, 1 thread)"
    )
    return info


def export_onnx(job: Job, network: nn.Module, path: Path) -> dict[str, Any]:
    """Export the deployment model of ``network``, which takes pixels in 0..1.

    It is compared with PyTorch on at most 2000 validation samples.
    """
    pixels = job.data.validation.read(torch.arange(min(len(job.data.validation), 2000)))
    model = require_deployable(job.task, "export").deployment_model(network, job.data)
    return to_onnx(model, pixels[:1], path, check_inputs=pixels)
