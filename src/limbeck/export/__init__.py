"""Export of a trained student to files that run without torch, each compared with the network."""

from limbeck.export.model_metadata import ModelMetadata, read_model_metadata
from limbeck.export.onnx_export import load_onnx, predict_onnx, quantize_int8, to_onnx
from limbeck.export.task_export import OnnxModule, export_task, get_named_inputs, measure_prediction_agreement

__all__ = [
    "ModelMetadata",
    "OnnxModule",
    "export_task",
    "get_named_inputs",
    "load_onnx",
    "measure_prediction_agreement",
    "predict_onnx",
    "quantize_int8",
    "read_model_metadata",
    "to_onnx",
]
