"""ONNX export (https://onnx.ai) with a parity check, and static 8-bit quantization, by onnxruntime.

A file is written only if onnxruntime (https://onnxruntime.ai) gives the logits of torch at several batch sizes: tracing
freezes data-dependent control flow, which only the check detects before deployment.

Quantized weights are int8 by channel, activations uint8 with the ranges of calibration images, written as pairs of
QuantizeLinear and DequantizeLinear (QDQ), which onnxruntime fuses into integer operations where it has them. Weights
use 7 bits: processors without VNNI add two 8-bit products in 16 bits, which would overflow.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.export.model_metadata import ModelMetadata
from limbeck.features import unwrap_model
from limbeck.models.onnx_graph import OPSET, export_onnx_bytes, suppress_output
from limbeck.teachers.backends.runtime_session import RuntimeSession
from limbeck.utils.io import write_atomically
from limbeck.utils.logits import find_logits
from limbeck.utils.parametrizations import copy_module
from limbeck.utils.timing import measure_latency, torch_threads

__all__ = ["load_onnx", "predict_onnx", "quantize_int8", "to_onnx"]

_BATCH_SIZE = 64


def to_onnx(
    model: nn.Module, example_inputs: Tensor, path: str | Path, *, check_inputs: Tensor, tolerance: float = 1e-4,
    metadata: ModelMetadata | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes ``model`` to one ONNX file of any batch size, if onnxruntime gives the same logits as torch.

    The file has one ``input``, one output ``logits``, and the weights. A copy of the model is exported, on the CPU in
    eval mode.

    Args:
        model: takes a tensor and returns logits ``[n, classes, ...]``: a tensor, the first of a tuple, ``.logits`` or
            ``["logits"]``.
        example_inputs: inputs ``[n, ...]`` that define shape and dtype.
        path: the ``.onnx`` file; an existing file is unchanged if the check fails.
        check_inputs: validation inputs ``[n, ...]`` for the parity check, first one sample, then batches.
        tolerance: largest allowed difference of a logit, relative to the largest logit where that is above 1.
        metadata: class names and preprocessing, for the metadata of the file.

    Returns:
        The entry of the record: ``file`` (its name), ``bytes``, ``opset``, ``max_abs_difference`` (of logits),
        ``label_agreement`` (a fraction), ``num_samples``, ``tolerance``, and ``latency_ms`` of onnxruntime on the
        CPU, for a batch of 1 with one thread.

    Raises:
        LimbeckError: the network cannot be exported, the file would exceed 2 GB, a logit differs by more than the
            tolerance, or a label differs where torch's two largest logits differ by more than the tolerance.
    """
    path, example_inputs, check_inputs = Path(path), example_inputs.detach().cpu(), check_inputs.detach().cpu()
    _validate_arguments(path, example_inputs, check_inputs, tolerance)
    network = _LogitsWrapper(copy_module(unwrap_model(model)).cpu()).eval()
    _require_runs(network, example_inputs[:1])
    props = {} if metadata is None else metadata.to_props()
    content = export_onnx_bytes(network, example_inputs, name=type(network.network).__name__, metadata=props)
    run = load_onnx(content, name=str(path))
    difference, agreement = _check_parity(network, run, check_inputs, tolerance=tolerance, name=path.name)
    latency = measure_latency(lambda: run(check_inputs[:1]))
    write_atomically(path, lambda partial: partial.write_bytes(content))
    return {
        "file": path.name,
        "bytes": len(content),
        "opset": OPSET,
        "max_abs_difference": difference,
        "label_agreement": agreement,
        "num_samples": len(check_inputs),
        "tolerance": tolerance,
        "latency_ms": latency,
    }


def predict_onnx(path: str | Path, inputs: Tensor) -> Tensor:
    """Logits ``[n, classes]`` of an exported file for ``inputs`` ``[n, ...]``, on the CPU in float32.

    Raises:
        LimbeckError: the file is missing, damaged or not of :func:`to_onnx`, or the inputs do not match it.
    """
    if not Path(path).is_file():
        raise LimbeckError(f"there is no ONNX file at {path}; export the student first")
    run = load_onnx(str(path), name=str(path))
    if not len(inputs):
        raise LimbeckError("inputs must have at least one row, got no row")
    return torch.cat([run(batch) for batch in torch.split(inputs.detach().cpu(), _BATCH_SIZE)])


def quantize_int8(
    source: str | Path, path: str | Path, *, calibration_inputs: Tensor | Sequence[Mapping[str, Tensor]],
    batch_size: int = 64,
) -> Path:  # fmt: skip
    """Writes the ONNX file ``source``, quantized to 8 bits, to ``path``, with its metadata.

    Args:
        source: a file of :func:`limbeck.export.to_onnx` or :func:`limbeck.export.export_task`.
        path: the ``.onnx`` file.
        calibration_inputs: inputs from the training or validation split, never from the test split; a few hundred are
            enough. A tensor ``[n, ...]`` for a file with the one input ``input``; else batches, each with every input
            by name.
        batch_size: calibration inputs per batch of a tensor.

    Raises:
        LimbeckError: there is no such file, no calibration input, an input of the file is missing in a batch, or
            onnxruntime cannot quantize the graph.
    """
    source, path = Path(source), Path(path)
    if not source.is_file():
        raise LimbeckError(f"there is no ONNX file at {source}; export the student first")
    if path.suffix != ".onnx":
        raise LimbeckError(f"path must be a file that ends in .onnx, got {path.name!r}")
    if not len(calibration_inputs):
        raise LimbeckError(
            "static quantization needs calibration inputs, got none; give a few hundred of the training split"
        )
    batches = calibration_inputs
    if isinstance(batches, Tensor):
        batches = [{"input": batch} for batch in torch.split(batches, batch_size)]
    return write_atomically(path, lambda partial: _quantize(source, partial, batches))


def load_onnx(model: bytes | str, *, name: str, num_threads: int = 1) -> Callable[[Tensor], Tensor]:
    """An exported model as a function from a batch ``[n, ...]`` to logits ``[n, classes]``, in onnxruntime.

    Raises:
        LimbeckError: the model is damaged or not of :func:`to_onnx`.
    """
    with torch_threads(num_threads):
        session = RuntimeSession(model, runtime="onnxruntime", name=name, input_name="input", output_name="logits")
    return lambda inputs: torch.from_numpy(session(inputs.numpy())["logits"]).float()


@final
class _LogitsWrapper(nn.Module):
    """Wraps a network so that it returns its logits as one tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input: Tensor) -> Tensor:
        """The logits, ``[batch, classes, ...]``; the name of the argument becomes that of the ONNX input."""
        logits = find_logits(self.network(input))
        if logits is None or logits.ndim < 2:
            raise LimbeckError(
                f"{type(self.network).__name__} gave no logits [batch, classes, ...]; return them as a tensor, the "
                'first of a tuple, .logits or ["logits"]'
            )
        return logits


def _validate_arguments(path: Path, example_inputs: Tensor, check_inputs: Tensor, tolerance: float) -> None:
    if path.suffix != ".onnx":
        raise LimbeckError(f"path must be a file that ends in .onnx, got {path.name!r}")
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise LimbeckError(f"tolerance must be a number above 0, such as 1e-4, got {tolerance}")
    if not len(example_inputs) or not len(check_inputs):
        raise LimbeckError("export needs at least one example and at least one validation input to compare on")
    example, check = (f"{inputs.dtype} {list(inputs.shape[1:])}" for inputs in (example_inputs, check_inputs))
    if example != check:
        raise LimbeckError(f"example_inputs must match check_inputs, got {example} and {check}; use the same data")


def _require_runs(network: _LogitsWrapper, sample: Tensor) -> None:
    """Raises an error of the network itself instead of the exporter's."""
    try:
        with torch.no_grad():
            network(sample)
    except LimbeckError:
        raise
    except Exception as error:
        raise LimbeckError(
            f"{type(network.network).__name__} does not take the example, {sample.dtype} {list(sample.shape)} "
            f"({format_root_cause(error)}); give an input as in training"
        ) from error


def _check_parity(
    network: nn.Module, run: Callable[[Tensor], Tensor], check_inputs: Tensor, *, tolerance: float, name: str
) -> tuple[float, float]:
    """The largest difference of a logit and the fraction of equal labels, both within the tolerance, or an error."""
    # One sample, then batches: a file that works for one batch size only does not pass.
    remaining = check_inputs[1:] if len(check_inputs) > 1 else check_inputs[[0, 0]]
    batches = [check_inputs[:1], *torch.split(remaining, _BATCH_SIZE)]
    with torch.no_grad():
        expected = torch.cat([network(batch).float() for batch in batches])
    logits = torch.cat([run(batch) for batch in batches])
    if not bool(expected.isfinite().all()):
        raise LimbeckError("the network's logits must be finite for an export; train it again")
    if logits.shape != expected.shape:
        raise LimbeckError(
            f"{name} is not written: onnxruntime gives {list(logits.shape)}, torch {list(expected.shape)}"
        )
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    difference = float((logits - expected).abs().max())
    top_two = expected.topk(min(2, expected.shape[1]), dim=1).values
    label_differs = logits.argmax(dim=1) != expected.argmax(dim=1)
    num_wrong = int((label_differs & (top_two[:, 0] - top_two[:, -1] > allowed)).sum())
    if not difference <= allowed or num_wrong:  # so written, NaN fails too
        raise LimbeckError(
            f"{name} is not written, since onnxruntime does not match torch: a logit differs by {difference:.3g} "
            f"({allowed:.3g} is allowed), and {int(label_differs.sum())} of {len(expected)} labels differ, "
            f"{num_wrong} of them where torch is sure; look for randomness or a branch on values in the network's "
            "forward"
        )
    return difference, 1.0 - float(label_differs.double().mean())


def _quantize(source: Path, path: Path, batches: Sequence[Mapping[str, Tensor]]) -> None:
    try:
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

        original = onnx.load(str(source))
        names = [port.name for port in original.graph.input]
        if wrong := next((batch for batch in batches if set(batch) != set(names)), None):
            raise LimbeckError(f"calibration_inputs must have {', '.join(names)}, got {', '.join(wrong)}")
        with suppress_output(), tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            # Folds constants and infers all shapes, so that no batch norm is left between two integer operators.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared), str(path), _CalibrationReader(batches),
                quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        quantized = onnx.load(str(path))
        onnx.helper.set_model_props(quantized, {prop.key: prop.value for prop in original.metadata_props})
        onnx.save(quantized, str(path))
    except LimbeckError:
        raise
    except Exception as error:  # depends on the operators of the graph
        raise LimbeckError(f"{source.name} cannot be quantized to 8 bits ({format_root_cause(error)})") from error


@final
class _CalibrationReader:
    """Calibration inputs batch by batch, in the interface of onnxruntime."""

    def __init__(self, batches: Sequence[Mapping[str, Tensor]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by the names of the inputs, or ``None`` after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {name: tensor.detach().cpu().numpy() for name, tensor in batch.items()}
