"""What a network is, in one hash: two networks of one identity answer alike."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["of_network"]


def of_network(network: nn.Module, taps: Mapping[str, str]) -> str:
    """A hash of a network's weights and buffers, its layers and their settings, its source text, and what is tapped.

    >>> one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> of_network(one, {}) == of_network(one, {}), of_network(one, {}) == of_network(other, {})
    (True, False)
    """
    found = hashlib.sha256(f"{network!r}\n{sorted(taps.items())}\n".encode())
    for kind in dict.fromkeys(type(module) for module in network.modules()):
        found.update(f"{kind.__module__}.{kind.__qualname__}\n{_source(kind)}\n".encode())
    for name, tensor in network.state_dict().items():
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _source(kind: type[Any]) -> str:
    """The text of a user's class, whose forward may change while its weights stay; torch's own goes by its version."""
    if kind.__module__.split(".")[0] == "torch":
        return torch.__version__
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # made in a console, or compiled
        return ""
