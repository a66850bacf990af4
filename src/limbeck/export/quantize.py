"""8-bit ONNX files by static quantization of onnxruntime (https://onnxruntime.ai/docs/performance/model-optimizations).

Weights are int8 by channel, activations uint8 with the ranges of calibration images, written as pairs of QuantizeLinear
and DequantizeLinear (QDQ), which onnxruntime fuses into integer operations where it has them. Weights use 7 bits:
processors without VNNI add two 8-bit products in 16 bits, which would overflow.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.models.onnx_graph import suppress_output
from limbeck.utils.io import write_atomically

__all__ = ["quantize_int8"]


def quantize_int8(source: str | Path, path: str | Path, *, calibration_inputs: Tensor, batch_size: int = 64) -> Path:
    """Writes the ONNX file ``source`` of :func:`limbeck.export.to_onnx`, quantized to 8 bits, to ``path``.

    Args:
        source: the file to quantize.
        path: the ``.onnx`` file.
        calibration_inputs: inputs ``[n, ...]`` from the training or validation split, never from the test split; a
            few hundred are enough.
        batch_size: calibration inputs per batch.

    Raises:
        LimbeckError: there is no such file, no calibration input, or onnxruntime cannot quantize the graph.
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
    return write_atomically(path, lambda partial: _quantize(source, partial, calibration_inputs, batch_size))


def _quantize(source: Path, path: Path, calibration_inputs: Tensor, batch_size: int) -> None:
    try:
        from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

        with suppress_output(), tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            # Folds constants and infers all shapes, so that no batch norm is left between two integer operators.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared), str(path), _CalibrationReader(calibration_inputs, batch_size),
                quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
    except Exception as error:  # depends on the operators of the graph
        raise LimbeckError(f"{source.name} cannot be quantized to 8 bits ({format_root_cause(error)})") from error


@final
class _CalibrationReader:
    """Calibration inputs batch by batch, in the interface of onnxruntime."""

    def __init__(self, inputs: Tensor, batch_size: int) -> None:
        self._batches = iter(torch.split(inputs.detach().cpu(), batch_size))

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by the name of the input, or ``None`` after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"input": batch.numpy()}
