"""From a trained student to a file that a device runs, checked against the network it came from."""

from limbeck.export.onnx_runner import predict_onnx
from limbeck.export.quantize import quantize_int8
from limbeck.export.to_onnx import to_onnx

__all__ = ["predict_onnx", "quantize_int8", "to_onnx"]
