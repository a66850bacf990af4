"""Inference backends of frozen networks: eager, folded BatchNorm, torch.compile, ONNX Runtime, OpenVINO."""

from limbeck.teachers.backends.builders import compute_outputs
from limbeck.teachers.backends.select_backend import BACKENDS, BackendReport, InferenceBackend

__all__ = ["BACKENDS", "BackendReport", "InferenceBackend", "compute_outputs"]
