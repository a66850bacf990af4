"""Export of a trained student to files that run without torch, each compared with the network."""

from limbeck.export.onnx_export import predict_onnx, quantize_int8, to_onnx

__all__ = ["predict_onnx", "quantize_int8", "to_onnx"]
