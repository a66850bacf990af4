"""Teachers outside torch: an ONNX file, a Python callable, an inference server. They predict logits only."""

from limbeck.teachers.external.external_teacher import ExternalTeacher, from_callable
from limbeck.teachers.external.inference_server import inference_server
from limbeck.teachers.external.onnx_teacher import onnx

__all__ = ["ExternalTeacher", "from_callable", "inference_server", "onnx"]
