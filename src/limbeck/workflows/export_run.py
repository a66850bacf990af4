"""``limbeck export``: exports the student of a run to ONNX and compares it with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.task import DeployableTask, require_deployable
from limbeck.data import DataModule, Split, iterate_batches
from limbeck.evaluation import score_batch
from limbeck.export import (
    OnnxModule,
    export_task,
    get_named_inputs,
    measure_prediction_agreement,
    quantize_int8,
    to_onnx,
)
from limbeck.models import load_weights
from limbeck.utils.console import print_text
from limbeck.utils.eval_mode import eval_mode
from limbeck.workflows._job.job import Job

__all__ = ["calibration_batches", "compare_deployed", "evaluate_deployed", "export_onnx", "export_run"]

_NUM_CALIBRATION_SAMPLES = 256


def export_run(
    folder: Path, *, output_path: Path | None = None, data_root: str | None = None, int8: bool = False
) -> dict[str, Any]:
    """Export the student of the run in ``folder`` to ONNX, compare it with PyTorch, and print the differences.

    Args:
        folder: the run.
        output_path: the file; ``None``: ``student.onnx`` in the run.
        data_root: root folder of the data, if it has moved.
        int8: write a file of 8 bits in addition, ``student.int8.onnx``, calibrated on training samples.
    """
    job = Job.from_run(folder, data_root)
    path = output_path or folder / "student.onnx"
    student = load_weights(job.build_deployed_student(), folder).eval()
    info = export_onnx(job, student, path)
    print_text(
        f"{path}: {info['bytes']:,} bytes, largest difference of an output {info['max_abs_difference']:.2g}, "
        f"agreement of predictions {100 * info['label_agreement']:.1f} % (n = {info['num_samples']}), "
        f"{info['latency_ms']['median']:.3f} ms per sample (median, 1 thread)"
    )
    if int8:
        info["int8"] = _export_int8(job, student, path)
    return info


def calibration_batches(task: DeployableTask, data: DataModule) -> list[dict[str, Tensor]]:
    """Up to 256 training samples, chosen by seed, as batches of the named inputs of an exported file."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(data.seed))
    samples = data.train.subset(order[:_NUM_CALIBRATION_SAMPLES])
    batches = iterate_batches(samples, None, batch_size=64)
    return [get_named_inputs(task, task.model_inputs(batch)) for batch in batches]


def evaluate_deployed(model: nn.Module, task: DeployableTask, split: Split) -> tuple[float, list[Any]]:
    """The primary metric and the predictions of a model that takes inputs before normalization."""
    statistics, predictions = list[Tensor](), list[Any]()
    for batch in iterate_batches(split, None, batch_size=64):
        scores = score_batch(model, batch, task)
        statistics.append(scores.statistics.double())
        predictions += scores.predictions
    rows = torch.cat(statistics)
    return float(task.metric_value(rows[~rows.isnan().any(dim=1)])), predictions


def compare_deployed(
    file: Path, network: nn.Module, task: DeployableTask, data: DataModule, split: Split
) -> dict[str, Any]:
    """The primary metric of an exported ``network``, and its agreement with torch; prints both.

    Returns:
        ``file``, ``value`` of the metric, and ``agreement``, the fraction of samples with the prediction of torch.
    """
    exported, model = OnnxModule(str(file), task, name=file.name), task.deployment_model(network, data).eval()
    (value, actual), (_, expected) = (evaluate_deployed(module, task, split) for module in (exported, model))
    agreement = measure_prediction_agreement(expected, actual)
    metric = f"{task.primary_metric.heading} {task.primary_metric.format(value)}"
    print_text(f"{file.name}: {metric}, agreement with torch {100 * agreement:.1f} % (n = {len(split)})")
    return {"file": file.name, "value": value, "agreement": agreement}


def _export_int8(job: Job, student: nn.Module, path: Path) -> dict[str, Any]:
    task = require_deployable(job.task, "export to 8 bits")
    small = path.with_suffix(".int8.onnx")
    quantize_int8(path, small, calibration_inputs=calibration_batches(task, job.data))
    info = compare_deployed(small, student, task, job.data, job.data.validation)
    return {**info, "bytes": small.stat().st_size}


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
