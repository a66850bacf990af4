"""Mixed precision that leaves the batch as it is.

Lightning Fabric rounds every float of a batch to the 16 bits of the run before autocast begins. Here pictures, soft
labels and whatever else the data gives stay float32: autocast rounds what a matrix product takes, teachers and caches
see the pictures of every other run, and losses read the labels that were drawn.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, final

import torch
from lightning_fabric.plugins import MixedPrecision, Precision

__all__ = ["make_precision_kwargs"]


def make_precision_kwargs(precision: Any) -> dict[str, Any]:
    """What Fabric is told of ``precision``: itself, or the plugin in its place where it is a mixed one.

    >>> make_precision_kwargs("32-true")
    {'precision': '32-true', 'plugins': []}
    """
    if precision == "bf16-mixed":
        return {"precision": None, "plugins": [_BFloat16Mixed(_device_type())]}
    if precision == "16-mixed":
        return {"precision": None, "plugins": [_Float16Mixed("16-mixed", _device_type())]}
    return {"precision": precision, "plugins": []}


def _device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


@final
class _BFloat16Mixed(Precision):
    """bfloat16 has the range of float32: no scaler, and a gradient may be looked at before the backward pass."""

    precision = "bf16-mixed"

    def __init__(self, device: str) -> None:
        self._device = device

    def forward_context(self) -> AbstractContextManager[Any]:
        """Autocast, around the forward pass."""
        return torch.autocast(self._device, dtype=torch.bfloat16)


@final
class _Float16Mixed(MixedPrecision):
    def convert_input(self, data: Any) -> Any:
        """The batch as it is."""
        return data
