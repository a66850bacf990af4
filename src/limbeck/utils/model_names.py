"""Names of networks with the library they come from: ``timm:resnet50``, ``torchvision:resnet18``, ``hf:PATH``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from limbeck.core.errors import LimbeckError

__all__ = ["MODEL_PREFIXES", "expand_model_name"]

MODEL_PREFIXES: Final[Mapping[str, tuple[str, str]]] = {
    "timm": ("timm", "name"), "torchvision": ("torchvision", "name"), "hf": ("transformers", "path"),
    "onnx": ("onnx", "path"),
}  # fmt: skip
"""Prefix of a name to its builder, and to the builder's argument that takes the rest of the name."""


def expand_model_name(node: Mapping[str, Any]) -> dict[str, Any]:
    """``node`` with its prefixed name as a builder and its argument; any other node unchanged.

    Raises:
        LimbeckError: nothing follows the prefix, or the argument is given as well.

    >>> expand_model_name({"use": "timm:resnet50", "drop_rate": 0.1})
    {'use': 'timm', 'name': 'resnet50', 'drop_rate': 0.1}
    >>> expand_model_name({"use": "my_networks:Net"})
    {'use': 'my_networks:Net'}
    """
    use = node.get("use")
    prefix, colon, name = use.partition(":") if isinstance(use, str) else ("", "", "")
    if not colon or prefix not in MODEL_PREFIXES:
        return dict(node)
    builder, argument = MODEL_PREFIXES[prefix]
    if not name:
        raise LimbeckError(f"{use} must name a network after the colon, such as {prefix}:{_EXAMPLES[prefix]}")
    if argument in node:
        raise LimbeckError(f"{use} names the network, and {argument} must not name it again: remove {argument}")
    return {"use": builder, argument: name, **{key: value for key, value in node.items() if key != "use"}}


_EXAMPLES: Final = {"timm": "resnet50", "torchvision": "resnet18", "hf": "FOLDER", "onnx": "teacher.onnx"}
