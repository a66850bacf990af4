"""Teachers that are no network of torch: an ONNX file, a Python callable, an endpoint. They give answers only."""

from limbeck.teachers.external.callable_teacher import from_callable
from limbeck.teachers.external.external_teacher import ExternalTeacher
from limbeck.teachers.external.inference_server import inference_server
from limbeck.teachers.external.onnx_teacher import onnx

__all__ = ["ExternalTeacher", "from_callable", "inference_server", "onnx"]
