"""``limbeck export``: exports the student of a run to ONNX and compares it with PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.task import DeployableTask, require_deployable
from limbeck.data import DataModule, Split, iterate_batches
from limbeck.data.image_preprocessing import ImagePreprocessing
from limbeck.evaluation import measure_latencies, score_batch
from limbeck.export import (
    ModelMetadata,
    OnnxModule,
    export_task,
    get_named_inputs,
    measure_prediction_agreement,
    quantize_int8,
    to_onnx,
)
from limbeck.models import load_weights
from limbeck.report.formatting import format_bytes, format_latency, format_percent
from limbeck.report.terminal import make_table, render_text
from limbeck.utils.console import print_text
from limbeck.utils.eval_mode import eval_mode
from limbeck.utils.io import write_text
from limbeck.utils.logits import find_logits
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.run_context import RunContext
from limbeck.workflows.predict import load_image_classifier

__all__ = [
    "calibration_batches",
    "compare_deployed",
    "describe_model",
    "evaluate_deployed",
    "export_onnx",
    "export_run",
]

_NUM_CALIBRATION_SAMPLES: Final = 256
_NUM_IMAGE_FILES: Final = 64
_PROBABILITY_TOLERANCE: Final = 1e-3


def export_run(
    folder: str | Path, *, output_path: str | Path | None = None, data_root: str | None = None, int8: bool = False
) -> dict[str, Any]:
    """Export the student of the run in ``folder`` to ONNX, compare it with PyTorch, and print the differences.

    Writes what it measures to ``export.json`` in the run.

    Args:
        folder: the run.
        output_path: the file; ``None``: ``student.onnx`` in the run.
        data_root: root folder of the data, if it has moved.
        int8: write a file of 8 bits in addition, ``student.int8.onnx``, calibrated on training samples, and compare
            both files on the validation split.
    """
    folder = Path(folder)
    job = Job.from_run(folder, data_root)
    path = Path(output_path or folder / "student.onnx")
    student = load_weights(job.build_deployed_student(), folder).eval()
    info = export_onnx(job, student, path)
    images = ""
    if info.get("num_images"):
        images = (
            f"limbeck predict {path.name}: the same class as the network on "
            f"{100 * info['image_agreement']:.1f} % of {info['num_images']} validation images\n"
        )
    print_text(
        f"{images}{path}: {info['bytes']:,} bytes, largest difference of an output {info['max_abs_difference']:.2g}, "
        f"agreement of predictions {100 * info['label_agreement']:.1f} % (n = {info['num_samples']}), "
        f"{info['latency_ms']['median']:.3f} ms per sample (median, 1 thread)"
    )
    if int8:
        task = require_deployable(job.task, "export to 8 bits")
        info["int8"] = _export_int8(job, student, path)
        print_text(_render_int8(info["int8"], task))
    write_text(folder / "export.json", json.dumps(info, indent=1))
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
    model = task.deployment_model(network, data).eval()
    exported = OnnxModule(str(file), task, name=file.name)
    (value, actual), (_, expected) = (evaluate_deployed(module, task, split) for module in (exported, model))
    agreement = measure_prediction_agreement(expected, actual)
    metric = f"{task.primary_metric.heading} {task.primary_metric.format(value)}"
    print_text(f"{file.name}: {metric}, agreement with torch {100 * agreement:.1f} % (n = {len(split)})")
    return {"file": file.name, "value": value, "agreement": agreement}


def _export_int8(job: Job, student: nn.Module, path: Path) -> dict[str, Any]:
    """Write the 8-bit file beside ``path``, calibrated on training samples, and compare both on the validation split.

    Returns:
        ``fp32`` and ``int8``, each with ``file``, ``bytes``, ``value`` of the primary metric, ``agreement`` (the
        fraction of samples with the prediction of torch) and ``latency_ms``; and ``metric`` and ``num_samples``.
    """
    task, split = require_deployable(job.task, "export to 8 bits"), job.data.validation
    small = path.with_suffix(".int8.onnx")
    quantize_int8(path, small, calibration_inputs=calibration_batches(task, job.data))
    files = {"fp32": path, "int8": small}
    models = {name: OnnxModule(str(file), task, name=file.name) for name, file in files.items()}
    _, expected = evaluate_deployed(task.deployment_model(student, job.data).eval(), task, split)
    inputs = task.model_inputs(next(iterate_batches(split.subset(torch.tensor([0])), None)))
    latencies = measure_latencies(
        {name: partial(model, *inputs.args, **inputs.kwargs) for name, model in models.items()}
    )
    result: dict[str, Any] = {"metric": task.primary_metric.name, "num_samples": len(split)}
    for name, model in models.items():
        value, predictions = evaluate_deployed(model, task, split)
        result[name] = {
            "file": files[name].name, "bytes": files[name].stat().st_size, "value": value,
            "agreement": measure_prediction_agreement(expected, predictions), "latency_ms": latencies[name],
        }  # fmt: skip
    return result


def _render_int8(result: Mapping[str, Any], task: DeployableTask) -> str:
    """The two files as a table."""
    spec = task.primary_metric
    table = make_table(
        ["file"], [spec.text, "size", "latency", "same prediction"],
        [
            [
                entry["file"], spec.format(entry["value"]), format_bytes(entry["bytes"]),
                format_latency(entry["latency_ms"]["median"]), format_percent(entry["agreement"]),
            ]
            for entry in (result["fp32"], result["int8"])
        ],
    )  # fmt: skip
    note = (
        f"On the {result['num_samples']} validation samples; predictions are compared with torch. Calibrated on "
        "training samples. Latency: median, batch 1, 1 thread."
    )
    return render_text(table, note)


def export_onnx(job: RunContext, network: nn.Module, path: Path) -> dict[str, Any]:
    """Export the task's ``deployment_model`` of ``network``, which normalizes its inputs itself.

    It is compared with PyTorch on at most 2000 validation samples with one vector of logits each, else on at most 65.
    An image classifier is also compared on image files, which are prepared as the metadata of the file say.
    """
    task, validation = require_deployable(job.task, "export to ONNX"), job.data.validation
    model, metadata = task.deployment_model(network, job.data), describe_model(job, network)
    if list(task.input_axes) == ["input"] and _has_class_logits(job, network):
        inputs = validation.read(torch.arange(min(len(validation), 2000)))
        info = to_onnx(model, inputs[:1], path, check_inputs=inputs, metadata=metadata)
        return info if metadata.preprocessing is None else info | _check_image_files(model.eval(), path, validation)
    sizes = [(0, 1), (1, 17), (17, 65)]  # one sample first, which the file must take as well
    indices = torch.arange(len(validation))
    subsets = [validation.subset(indices[start:end]) for start, end in sizes]
    batches = [batch for subset in subsets if len(subset) for batch in iterate_batches(subset, None)]
    return export_task(task, model, batches, path, metadata=metadata)


def describe_model(job: RunContext, network: nn.Module) -> ModelMetadata:
    """What the exported file of ``network`` says about itself."""
    is_classifier = isinstance(job.task, DeployableTask) and _has_class_logits(job, network)
    return ModelMetadata(
        task=type(job.task).__name__, class_names=tuple(job.data.class_names),
        preprocessing=ImagePreprocessing.from_data(job.data) if is_classifier else None,
        output=getattr(job.task, "output_description", ""),
    )  # fmt: skip


def _check_image_files(model: nn.Module, path: Path, validation: Split) -> dict[str, Any]:
    """Compare ``limbeck predict`` of the exported file with ``model`` on validation samples that are image files.

    Raises:
        LimbeckError: the probabilities differ, so the metadata of the file do not prepare images as in training.
    """
    subset = validation.subset(torch.arange(min(len(validation), _NUM_IMAGE_FILES)))
    if not subset.paths:
        return {}
    classifier = load_image_classifier(path)
    with torch.no_grad():
        logits = find_logits(model(subset.read(torch.arange(len(subset)))))
    assert logits is not None
    expected = logits.double().softmax(dim=1)
    actual = classifier.probabilities(classifier.preprocessing.read(subset.paths))
    difference = float((actual - expected).abs().max())
    if difference > _PROBABILITY_TOLERANCE:
        path.unlink()
        raise LimbeckError(
            f"{path.name} is not written: a class probability of limbeck predict differs by {difference:.3g} from that "
            "of the network on the same image files; the data source must prepare images as ImageFolder does"
        )
    agreement = float((actual.argmax(dim=1) == expected.argmax(dim=1)).double().mean())
    return {"num_images": len(subset), "image_agreement": agreement}


def _has_class_logits(job: RunContext, network: nn.Module) -> bool:
    """Whether the task has one vector of logits for each sample."""
    batch = next(iterate_batches(job.data.validation.subset(torch.tensor([0])), job.data.normalization))
    with eval_mode(network):
        return job.task.score(network, batch).logits is not None
