"""Latency, size and accuracy of networks by runtime: torch, onnxruntime in 32 and 8 bits, OpenVINO.

Every network takes pixels in 0..1. All are timed in turns with the same number of threads, so that other load on the
machine slows all alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck import evaluation
from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Task
from limbeck.data import DataModule, Split
from limbeck.evaluation.checks import require_labeled
from limbeck.export import quantize_int8, to_onnx
from limbeck.teachers.backends.runtime_session import Runtime, RuntimeSession, missing_package_message
from limbeck.utils.eval_mode import eval_mode
from limbeck.workflows.evaluate.robustness import LogitsModel

__all__ = ["measure_efficiency"]

_NUM_CALIBRATION_SAMPLES = 256
_NUM_ACCURACY_SAMPLES = 1000


def measure_efficiency(
    networks: Mapping[str, nn.Module],
    data: DataModule,
    task: Task,
    split: Split,
    *,
    batch_sizes: Sequence[int] = (1, 8, 64),
    seconds: float = 1.0,
) -> dict[str, Any]:
    """Latency, size and accuracy of each network in each runtime that is installed, with one thread.

    Args:
        networks: on the CPU; each takes normalized inputs.
        data: gives the normalization, and training images that the 8-bit ranges are measured on.
        task: what a batch means.
        split: accuracy is measured on up to 1,000 of its labeled samples.
        batch_sizes: samples in one call.
        seconds: for each network, runtime and batch.

    Returns:
        ``rows``, each with ``model``, ``runtime``, ``precision``, ``num_threads``, ``latency_ms`` (by batch size:
        ``median``, ``p95``, ``num_repeats`` …), ``accuracy`` and ``num_samples``, ``bytes`` of its file,
        ``parameters``, ``flops`` of one inference, ``peak_memory`` (of torch tensors; ``None`` for other runtimes) and
        ``machine``; and ``notes``, the missing runtimes and why.

    Raises:
        LimbeckError: no labeled sample, or no batch size.
    """
    labeled = require_labeled(split)
    if not batch_sizes or min(batch_sizes) < 1:
        raise LimbeckError(f"batch_sizes must be from 1, got {list(batch_sizes)}")
    subset = labeled.subset(torch.arange(min(len(labeled), _NUM_ACCURACY_SAMPLES)))
    pixels, num_threads = subset.read(torch.arange(len(subset))), torch.get_num_threads()
    rows, notes, calls = list[dict[str, Any]](), list[str](), list[Callable[[Tensor], Tensor]]()
    torch.set_num_threads(1)
    try:
        for name, network in networks.items():
            model = LogitsModel(network, data, task).eval()
            settings = {
                "model": name, "num_threads": 1, "num_samples": len(subset), "machine": evaluation.get_hardware_info(),
                "parameters": evaluation.count_parameters(model), "flops": evaluation.count_flops(model, pixels[:1])[0],
            }  # fmt: skip
            peak_memory = evaluation.measure_peak_memory(model, pixels[:1])
            for runtime in _build_runtimes(name, model, data, pixels, notes):
                labels = torch.cat([runtime.call(batch).argmax(dim=1) for batch in torch.split(pixels, 64)])
                rows.append({
                    **settings, "runtime": runtime.name, "precision": runtime.precision, "bytes": runtime.num_bytes,
                    "accuracy": float((labels == subset.target).double().mean()),
                    "peak_memory": peak_memory if runtime.name == "torch" else None, "latency_ms": {},
                })  # fmt: skip
                calls.append(runtime.call)
        for size in batch_sizes:
            inputs = pixels[torch.arange(size) % len(pixels)].contiguous()
            runtime_calls = {str(index): partial(call, inputs) for index, call in enumerate(calls)}
            timings = evaluation.measure_latencies(runtime_calls, max_seconds=seconds, batch_size=size)
            for index, row in enumerate(rows):
                row["latency_ms"][str(size)] = timings[str(index)]
    finally:
        torch.set_num_threads(num_threads)
    return {"rows": rows, "notes": list(dict.fromkeys(notes))}


class _MeasuredRuntime(NamedTuple):
    name: str
    precision: str
    num_bytes: int
    call: Callable[[Tensor], Tensor]


def _build_runtimes(
    name: str, model: LogitsModel, data: DataModule, pixels: Tensor, notes: list[str]
) -> Iterator[_MeasuredRuntime]:
    """The network in every installed runtime; adds to ``notes`` why one is missing."""

    def eager(batch: Tensor) -> Tensor:
        with eval_mode(model):
            logits: Tensor = model(batch)
        return logits

    yield _MeasuredRuntime("torch", "fp32", evaluation.weights_file_size(model.model.network), eager)
    with tempfile.TemporaryDirectory() as folder:
        fp32_file, int8_file = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        try:
            to_onnx(model, pixels[:1], fp32_file, check_inputs=pixels[:256])
            yield _open_session(fp32_file, "onnxruntime", "fp32")
            order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(data.seed))
            images = data.train.read(order[:_NUM_CALIBRATION_SAMPLES])
            quantize_int8(fp32_file, int8_file, calibration_inputs=images)
            yield _open_session(int8_file, "onnxruntime", "int8")
        except LimbeckError as error:
            notes.append(f"{name}: {error}")
        if (missing := missing_package_message("openvino")) is not None:
            notes.append(missing)
        elif fp32_file.exists():
            yield _open_session(fp32_file, "openvino", "fp32")


def _open_session(file: Path, runtime: Runtime, precision: str) -> _MeasuredRuntime:
    session = RuntimeSession(file.read_bytes(), runtime=runtime, name=file.name)
    return _MeasuredRuntime(
        runtime, precision, file.stat().st_size, lambda batch: torch.from_numpy(session(batch.numpy()))
    )
