"""Teachers that are no network of torch: an ONNX file, a Python callable, an endpoint. They give answers only."""

from limbeck.teachers.external.callable_teacher import answers
from limbeck.teachers.external.external_teacher import Foreign
from limbeck.teachers.external.inference_server import endpoint
from limbeck.teachers.external.onnx_teacher import onnx

__all__ = ["Foreign", "answers", "endpoint", "onnx"]
