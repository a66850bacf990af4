"""From a trained student to a file that a device runs, checked against the network it came from."""

from limbeck.compress.export import to_onnx
from limbeck.compress.int8 import to_int8
from limbeck.compress.runner import onnx_logits

__all__ = ["onnx_logits", "to_int8", "to_onnx"]
