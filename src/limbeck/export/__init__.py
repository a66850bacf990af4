"""Export of a trained student to files that run without torch, each compared with the network."""

from limbeck.export.onnx_export import predict_onnx, quantize_int8, to_onnx
from limbeck.export.task_export import OnnxModule, export_task, get_named_inputs, measure_prediction_agreement

__all__ = [
    "OnnxModule",
    "export_task",
    "get_named_inputs",
    "measure_prediction_agreement",
    "predict_onnx",
    "quantize_int8",
    "to_onnx",
]
