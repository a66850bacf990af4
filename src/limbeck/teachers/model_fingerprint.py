"""What a network is, in one hash: two networks of one identity answer alike."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["fingerprint_network"]


def fingerprint_network(network: nn.Module, feature_layers: Mapping[str, str]) -> str:
    """A hash of a network's weights and buffers, its layers and their settings, its source text, and what is tapped.

    >>> one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> fingerprint_network(one, {}) == fingerprint_network(one, {}), fingerprint_network(one, {}) == fingerprint_network(other, {})
    (True, False)
    """
    hasher = hashlib.sha256(f"{network!r}\n{sorted(feature_layers.items())}\n".encode())
    for module_type in dict.fromkeys(type(module) for module in network.modules()):
        hasher.update(f"{module_type.__module__}.{module_type.__qualname__}\n{_class_source(module_type)}\n".encode())
    for name, tensor in network.state_dict().items():
        hasher.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _class_source(module_type: type[Any]) -> str:
    """The text of a user's class, whose forward may change while its weights stay; torch's own goes by its version."""
    if module_type.__module__.split(".")[0] == "torch":
        return torch.__version__
    try:
        return inspect.getsource(module_type)
    except (OSError, TypeError):  # made in a console, or compiled
        return ""
