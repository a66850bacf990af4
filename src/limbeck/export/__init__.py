"""From a trained student to a file that a device runs, checked against the network it came from."""

from limbeck.export.onnx_runner import onnx_logits
from limbeck.export.quantize import to_int8
from limbeck.export.to_onnx import to_onnx

__all__ = ["onnx_logits", "to_int8", "to_onnx"]
