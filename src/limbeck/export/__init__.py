"""Export of a trained student to files that run without torch, each compared with the network."""

from limbeck.export.quantize import quantize_int8
from limbeck.export.to_onnx import predict_onnx, to_onnx

__all__ = ["predict_onnx", "quantize_int8", "to_onnx"]
