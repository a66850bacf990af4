"""Latency, size and primary metric of networks by runtime: torch, onnxruntime in 32 and 8 bits, OpenVINO.

Every network is measured as it is deployed: it takes inputs before normalization, by the ``model_inputs`` of the task.
All are timed in turns with the same number of threads, so that other load on the machine slows all alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from limbeck import evaluation
from limbeck.core.errors import LimbeckError
from limbeck.core.task import DeployableTask, EvaluableTask, ModelInputs, require_deployable
from limbeck.data import DataModule, Split, iterate_batches
from limbeck.evaluation.checks import require_labeled
from limbeck.export import OnnxModule, export_task, get_named_inputs, measure_prediction_agreement, quantize_int8
from limbeck.teachers.backends.runtime_session import missing_package_message
from limbeck.utils.eval_mode import eval_mode
from limbeck.utils.timing import torch_threads
from limbeck.workflows.export_run import calibration_batches, evaluate_deployed

__all__ = ["measure_efficiency"]

_NUM_METRIC_SAMPLES = 1000
_NUM_PARITY_SAMPLES = 65
_MAX_INPUT_BYTES = 2**26


def measure_efficiency(
    networks: Mapping[str, nn.Module],
    data: DataModule,
    task: EvaluableTask,
    split: Split,
    *,
    batch_sizes: Sequence[int] = (1, 8, 64),
    seconds: float = 1.0,
) -> dict[str, Any]:
    """Latency, size and primary metric of each network in each runtime that is installed, with one thread.

    Args:
        networks: on the CPU; each takes normalized inputs.
        data: gives the normalization, and training samples that the 8-bit ranges are measured on.
        task: names the inputs of a network, and scores its predictions.
        split: the metric is measured on up to 1,000 of its labeled samples.
        batch_sizes: samples in one call; those whose inputs exceed 64 MiB are left out with a note.
        seconds: for each network, runtime and batch.

    Returns:
        ``rows``, each with ``model``, ``runtime``, ``precision``, ``num_threads``, ``latency_ms`` (by batch size:
        ``median``, ``p95``, ``num_repeats`` …), ``value`` of the primary metric and ``num_samples``, ``agreement`` (the
        fraction of samples with the prediction of torch), ``bytes`` of its file, ``parameters``, ``flops`` of one
        inference, ``peak_memory`` (of torch tensors; ``None`` for other runtimes) and ``machine``; and ``notes``: the
        missing runtimes and why.

    Raises:
        LimbeckError: no labeled sample, no batch size, or a task that is not a ``DeployableTask``.
    """
    task = require_deployable(task, "efficiency")
    labeled = require_labeled(split)
    if not batch_sizes or min(batch_sizes) < 1:
        raise LimbeckError(f"batch_sizes must be from 1, got {list(batch_sizes)}")
    subset = labeled.subset(torch.arange(min(len(labeled), _NUM_METRIC_SAMPLES)))
    rows, notes, runtimes = list[dict[str, Any]](), list[str](), dict[str, nn.Module]()
    keys: list[str] = []  # of each row: networks of equal structure have one latency in a runtime
    with torch_threads(1):
        for name, network in networks.items():
            settings = {"model": name, "num_threads": 1, "machine": evaluation.get_hardware_info()}
            settings |= _measure_cost(task.deployment_model(network, data), task, subset)
            predictions = None
            for runtime in _build_runtimes(name, network, data, task, subset, notes):
                value, runtime_predictions = evaluate_deployed(runtime.model, task, subset)
                predictions = predictions or runtime_predictions
                is_torch = runtime.name == "torch"
                rows.append({
                    **settings, "runtime": runtime.name, "precision": runtime.precision, "bytes": runtime.num_bytes,
                    "value": value, "num_samples": len(subset),
                    "agreement": measure_prediction_agreement(predictions, runtime_predictions),
                    "peak_memory": settings["peak_memory"] if is_torch else None, "latency_ms": {},
                })  # fmt: skip
                keys.append(f"{evaluation.hash_structure(network)} {runtime.name} {runtime.precision}")
                runtimes.setdefault(keys[-1], runtime.model)
        for size, inputs in _latency_inputs(task, subset, batch_sizes, notes):
            calls = {key: partial(_call, model, inputs) for key, model in runtimes.items()}
            timings = evaluation.measure_latencies(calls, max_seconds=seconds, batch_size=size)
            for key, row in zip(keys, rows, strict=True):
                row["latency_ms"][str(size)] = timings[key]
    return {"rows": rows, "notes": list(dict.fromkeys(notes))}


class _Runtime(NamedTuple):
    name: str
    precision: str
    num_bytes: int
    model: nn.Module


def _measure_cost(model: nn.Module, task: DeployableTask, split: Split) -> dict[str, Any]:
    """Cost of one sample in torch."""
    inputs = task.model_inputs(_first_batch(split, 1))
    return {
        "parameters": evaluation.count_parameters(model), "flops": evaluation.count_flops(model, inputs)[0],
        "peak_memory": evaluation.measure_peak_memory(model, inputs),
    }  # fmt: skip


def _build_runtimes(
    name: str, network: nn.Module, data: DataModule, task: DeployableTask, split: Split, notes: list[str]
) -> Iterator[_Runtime]:
    """The network in every installed runtime; adds to ``notes`` why one is missing."""
    model = task.deployment_model(network, data).eval()
    yield _Runtime("torch", "fp32", evaluation.weights_file_size(network), model)
    with tempfile.TemporaryDirectory() as folder:
        fp32_file, int8_file = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        try:
            # Two sizes, since a file of one size only must not pass.
            sizes = [1, min(len(split), _NUM_PARITY_SAMPLES)]
            export_task(task, model, [_first_batch(split, size) for size in sizes], fp32_file)
            yield _open("onnxruntime", "fp32", fp32_file, task)
            quantize_int8(fp32_file, int8_file, calibration_inputs=calibration_batches(task, data))
            yield _open("onnxruntime", "int8", int8_file, task)
        except LimbeckError as error:
            notes.append(f"{name}: {error}")
        if (missing := missing_package_message("openvino")) is not None:
            notes.append(missing)
        elif fp32_file.exists():
            yield _open("openvino", "fp32", fp32_file, task)


def _open(runtime: Any, precision: str, file: Path, task: DeployableTask) -> _Runtime:
    model = OnnxModule(file.read_bytes(), task, name=file.name, runtime=runtime)
    return _Runtime(runtime, precision, file.stat().st_size, model)


def _latency_inputs(
    task: DeployableTask, split: Split, batch_sizes: Sequence[int], notes: list[str]
) -> Iterator[tuple[int, ModelInputs]]:
    """Inputs of each batch size."""
    for size in batch_sizes:
        inputs = task.model_inputs(_first_batch(split, size))
        num_bytes = sum(tensor.nbytes for tensor in get_named_inputs(task, inputs).values())
        if size > 1 and num_bytes > _MAX_INPUT_BYTES:
            notes.append(f"batches of {size} are not timed: their inputs have {num_bytes / 2**20:.0f} MiB")
            continue
        yield size, inputs


def _first_batch(split: Split, size: int) -> Any:
    """The first ``size`` samples, repeated where there are fewer, before normalization."""
    return next(iterate_batches(split.subset(torch.arange(size) % len(split)), None, batch_size=size))


def _call(model: nn.Module, inputs: ModelInputs) -> Any:
    with eval_mode(model):
        return model(*inputs.args, **inputs.kwargs)
