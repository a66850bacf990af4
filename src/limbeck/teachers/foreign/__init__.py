"""Teachers that are no network of torch: an ONNX file, a Python callable, an endpoint. They give answers only."""

from limbeck.teachers.foreign.answers import answers
from limbeck.teachers.foreign.endpoint import endpoint
from limbeck.teachers.foreign.foreign import Foreign
from limbeck.teachers.foreign.onnx import onnx

__all__ = ["Foreign", "answers", "endpoint", "onnx"]
