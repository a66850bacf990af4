"""What one inference costs by network and runtime: torch, onnxruntime in 32 and 8 bits, OpenVINO; and its accuracy.

Every network is measured as it is handed over, with pixels in 0..1 as input. All of them are timed in turns with the
same number of threads, so that a busy moment of the machine slows all alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Task
from limbeck.data import DataModule, Split
from limbeck.evaluation import (
    count_flops,
    count_parameters,
    get_hardware_info,
    measure_latencies,
    measure_peak_memory,
    weights_file_size,
)
from limbeck.export import quantize_int8, to_onnx
from limbeck.teachers.backends.runtime_session import Runtime, RuntimeSession, find_missing_package
from limbeck.utils.eval_mode import eval_mode
from limbeck.workflows.evaluate.robustness_api import LogitsModel

__all__ = ["BATCH_SIZES", "measure_efficiency"]

BATCH_SIZES = (1, 8, 64)
_NUM_CALIBRATION_SAMPLES = 256
_NUM_ACCURACY_SAMPLES = 1000


def measure_efficiency(
    networks: Mapping[str, nn.Module], data: DataModule, task: Task, split: Split, *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    num_threads: int = 1, seconds: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """Latency, size and accuracy of each network in each runtime that is installed.

    Args:
        networks: on the CPU; each takes normalized inputs.
        data: gives the normalization, and training images that the 8-bit ranges are measured on.
        task: what a batch means.
        split: accuracy is measured on up to 1,000 of its labeled samples.
        batch_sizes: samples in one call.
        num_threads: of every runtime; put back after.
        seconds: for each network, runtime and batch.

    Returns:
        ``rows``, each with ``model``, ``runtime``, ``precision``, ``num_threads``, ``latency_ms`` (by batch size:
        ``median``, ``p95``, ``num_repeats`` …), ``accuracy`` and ``num_samples``, ``bytes`` of its file,
        ``parameters``, ``flops`` of one inference, ``peak_memory`` (of tensors alive in torch; ``None`` elsewhere,
        where nobody counts it) and ``machine``; and ``notes``, on what is missing and why.

    Raises:
        LimbeckError: no labeled sample, no batch size, or no thread.
    """
    labeled_split = split.select_labeled()
    if not len(labeled_split):
        raise LimbeckError("there is nothing to measure on: no sample of the split has a label")
    if num_threads < 1 or not batch_sizes or min(batch_sizes) < 1:
        raise LimbeckError(
            f"efficiency takes num_threads and batch_sizes from 1, not {num_threads} and {list(batch_sizes)}"
        )
    subset = labeled_split.subset(torch.arange(min(len(labeled_split), _NUM_ACCURACY_SAMPLES)))
    pixels, previous_num_threads = subset.read(torch.arange(len(subset))), torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        rows, notes = list[dict[str, Any]](), list[str]()
        calls: dict[str, Callable[[Tensor], object]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, network in networks.items():
                model = LogitsModel(network, data, task).eval()
                static_costs = _static_costs(model, pixels)
                runtimes, runtime_notes = _build_runtimes(name, model, data, pixels, Path(folder))
                notes += runtime_notes
                for runtime in runtimes:
                    rows.append(
                        {
                            "model": name, "runtime": runtime.runtime, "precision": runtime.precision,
                            "num_threads": num_threads,
                            "accuracy": float((_predict_labels(runtime.call,
                            pixels) == subset.target).double().mean()), "num_samples": len(subset),
                            "bytes": runtime.bytes, **static_costs,
                            "peak_memory": static_costs["peak_memory"] if runtime.runtime == "torch" else None,
                            "machine": get_hardware_info(),
                        }
                    )  # fmt: skip
                    calls[str(len(rows) - 1)] = runtime.call
            _add_latencies(rows, calls, pixels, batch_sizes=batch_sizes, num_threads=num_threads, seconds=seconds)
    finally:
        torch.set_num_threads(previous_num_threads)
    return {"rows": rows, "notes": list(dict.fromkeys(notes))}


class _RuntimeModel(NamedTuple):
    runtime: str
    precision: str
    bytes: int
    call: Callable[[Tensor], Tensor]


def _build_runtimes(
    name: str, model: LogitsModel, data: DataModule, pixels: Tensor, folder: Path
) -> tuple[list[_RuntimeModel], list[str]]:  # fmt: skip
    """The network in every runtime there is, and why one is missing."""

    def eager(batch: Tensor) -> Tensor:
        with eval_mode(model):
            logits: Tensor = model(batch)
        return logits

    runtimes, notes = [_RuntimeModel("torch", "fp32", weights_file_size(model.model.network), eager)], list[str]()
    fp32_file, int8_file = folder / "fp32.onnx", folder / "int8.onnx"
    try:
        to_onnx(model, pixels[:1], fp32_file, check_inputs=pixels[:256])
        runtimes += [_open_session(fp32_file, "onnxruntime", "fp32")]
        quantize_int8(fp32_file, int8_file, calibration_inputs=_calibration_images(data))
        runtimes += [_open_session(int8_file, "onnxruntime", "int8")]
    except LimbeckError as error:
        notes.append(f"{name}: {error}")
    if (missing_reason := find_missing_package("openvino")) is not None:
        notes.append(missing_reason)
    elif fp32_file.exists():
        runtimes += [_open_session(fp32_file, "openvino", "fp32")]
    for path in (fp32_file, int8_file):
        path.unlink(missing_ok=True)
    return runtimes, notes


def _open_session(file: Path, runtime: Runtime, precision: str) -> _RuntimeModel:
    session = RuntimeSession(file.read_bytes(), runtime=runtime, name=file.name)
    return _RuntimeModel(
        runtime, precision, file.stat().st_size, lambda batch: torch.from_numpy(session(batch.numpy()))
    )


def _calibration_images(data: DataModule) -> Tensor:
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(data.seed))
    return data.train.read(order[:_NUM_CALIBRATION_SAMPLES])


def _static_costs(model: LogitsModel, pixels: Tensor) -> dict[str, Any]:
    return {
        "parameters": count_parameters(model), "flops": count_flops(model, pixels[:1])[0],
        "peak_memory": measure_peak_memory(model, pixels[:1]),
    }  # fmt: skip


def _predict_labels(call: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    return torch.cat([call(batch).argmax(dim=1) for batch in torch.split(pixels, 64)])


def _add_latencies(
    rows: Sequence[dict[str, Any]], calls: Mapping[str, Callable[[Tensor], object]], pixels: Tensor, *,
    batch_sizes: Sequence[int], num_threads: int, seconds: float,
) -> None:  # fmt: skip
    for batch_size in batch_sizes:
        inputs = pixels[torch.arange(batch_size) % len(pixels)].contiguous()
        timings = measure_latencies(
            {key: (lambda call=call: call(inputs)) for key, call in calls.items()},  # type: ignore[misc]  # noqa: B023
            max_seconds=seconds, num_threads=num_threads, batch_size=batch_size,
        )  # fmt: skip
        for key, timing in timings.items():
            rows[int(key)].setdefault("latency_ms", {})[str(batch_size)] = timing
