"""Export of a trained student to files that run without torch, each compared with the network."""

from limbeck.export.onnx_export import predict_onnx, quantize_int8, to_onnx
from limbeck.export.task_export import OnnxModule, equal_predictions, export_task, named_inputs

__all__ = [
    "OnnxModule",
    "equal_predictions",
    "export_task",
    "named_inputs",
    "predict_onnx",
    "quantize_int8",
    "to_onnx",
]
