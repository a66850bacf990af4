"""What one answer costs by network and runtime: torch, onnxruntime in 32 and 8 bits, OpenVINO; accuracy beside it.

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
from limbeck.data import Data, Part
from limbeck.evaluation import flops, latencies, machine, parameters, peak_memory, weights_bytes
from limbeck.evaluation.checks import evaluating
from limbeck.export import to_int8, to_onnx
from limbeck.teachers.backends.runtime_session import Runtime, Session, missing
from limbeck.workflows.evaluate.robustness_api import Answering

__all__ = ["BATCHES", "efficiency"]

BATCHES = (1, 8, 64)
_CALIBRATION = 256
_ACCURACY = 1000


def efficiency(
    networks: Mapping[str, nn.Module], data: Data, task: Task, part: Part, *, batches: Sequence[int] = BATCHES,
    threads: int = 1, seconds: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """Latency, size and accuracy of each network in each runtime that is installed.

    Args:
        networks: on the CPU; each answers normalised inputs.
        data: gives the normalisation, and training pictures that the 8-bit ranges are measured on.
        task: what a batch means.
        part: accuracy is told on up to 1,000 of its labelled samples.
        batches: samples in one call.
        threads: of every runtime; put back after.
        seconds: for each network, runtime and batch.

    Returns:
        ``rows``, each with ``model``, ``runtime``, ``precision``, ``threads``, ``latency_ms`` (by batch: ``median``,
        ``p95``, ``repeats`` …), ``top1`` and ``n``, ``bytes`` of its file, ``parameters``, ``flops`` of one answer,
        ``memory`` (of tensors alive in torch; ``None`` elsewhere, where nobody counts it) and ``machine``; and
        ``notes``, on what is missing and why.

    Raises:
        LimbeckError: no labelled sample, no batch, or no thread.
    """
    labelled = part.labelled()
    if not len(labelled):
        raise LimbeckError("there is nothing to measure on: no sample of the part has a label")
    if threads < 1 or not batches or min(batches) < 1:
        raise LimbeckError(f"efficiency takes threads and batches from 1, not {threads} and {list(batches)}")
    some = labelled.subset(torch.arange(min(len(labelled), _ACCURACY)))
    pixels, before = some.read(torch.arange(len(some))), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows, notes = list[dict[str, Any]](), list[str]()
        calls: dict[str, Callable[[Tensor], object]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, network in networks.items():
                deployed = Answering(network, data, task).eval()
                facts = _facts(deployed, pixels)
                ready, more = _ready(name, deployed, data, pixels, Path(folder))
                notes += more
                for one in ready:
                    rows.append(
                        {
                            "model": name, "runtime": one.runtime, "precision": one.precision, "threads": threads,
                            "top1": float((_said(one.call, pixels) == some.target).double().mean()), "n": len(some),
                            "bytes": one.bytes, **facts, "memory": facts["memory"] if one.runtime == "torch" else None,
                            "machine": machine(),
                        }
                    )  # fmt: skip
                    calls[str(len(rows) - 1)] = one.call
            _time(rows, calls, pixels, batches=batches, threads=threads, seconds=seconds)
    finally:
        torch.set_num_threads(before)
    return {"rows": rows, "notes": list(dict.fromkeys(notes))}


class _Ready(NamedTuple):
    runtime: str
    precision: str
    bytes: int
    call: Callable[[Tensor], Tensor]


def _ready(
    name: str, deployed: Answering, data: Data, pixels: Tensor, folder: Path
) -> tuple[list[_Ready], list[str]]:  # fmt: skip
    """The network in every runtime there is, and why one is missing."""

    def eager(batch: Tensor) -> Tensor:
        with evaluating(deployed):
            logits: Tensor = deployed(batch)
        return logits

    found, notes = [_Ready("torch", "fp32", weights_bytes(deployed.deployed.network), eager)], list[str]()
    file, small = folder / "fp32.onnx", folder / "int8.onnx"
    try:
        to_onnx(deployed, pixels[:1], file, examples=pixels[:256])
        found += [_session(file, "onnxruntime", "fp32")]
        to_int8(file, small, calibration=_calibration(data))
        found += [_session(small, "onnxruntime", "int8")]
    except LimbeckError as error:
        notes.append(f"{name}: {error}")
    if (absent := missing("openvino")) is not None:
        notes.append(absent)
    elif file.exists():
        found += [_session(file, "openvino", "fp32")]
    for path in (file, small):
        path.unlink(missing_ok=True)
    return found, notes


def _session(file: Path, runtime: Runtime, precision: str) -> _Ready:
    session = Session(file.read_bytes(), runtime=runtime, of=file.name)
    return _Ready(runtime, precision, file.stat().st_size, lambda batch: torch.from_numpy(session(batch.numpy())))


def _calibration(data: Data) -> Tensor:
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(data.seed))
    return data.train.read(order[:_CALIBRATION])


def _facts(deployed: Answering, pixels: Tensor) -> dict[str, Any]:
    return {
        "parameters": parameters(deployed), "flops": flops(deployed, pixels[:1])[0],
        "memory": peak_memory(deployed, pixels[:1]),
    }  # fmt: skip


def _said(call: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    return torch.cat([call(part).argmax(dim=1) for part in torch.split(pixels, 64)])


def _time(
    rows: Sequence[dict[str, Any]], calls: Mapping[str, Callable[[Tensor], object]], pixels: Tensor, *,
    batches: Sequence[int], threads: int, seconds: float,
) -> None:  # fmt: skip
    for batch in batches:
        given = pixels[torch.arange(batch) % len(pixels)].contiguous()
        took = latencies(
            {key: (lambda call=call: call(given)) for key, call in calls.items()},  # type: ignore[misc]  # noqa: B023
            budget=seconds, threads=threads, batch=batch,
        )  # fmt: skip
        for key, found in took.items():
            rows[int(key)].setdefault("latency_ms", {})[str(batch)] = found
