"""Mixed precision that leaves the batch in float32.

Lightning Fabric converts every float of a batch to the 16-bit type before autocast. Here images and soft labels stay
float32 and autocast converts the operands of matrix products, so that teachers and caches get the images of every other
run.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, final

import torch
from lightning_fabric.plugins import MixedPrecision, Precision

__all__ = ["make_precision_kwargs"]


def make_precision_kwargs(precision: Any) -> dict[str, Any]:
    """Arguments of Fabric for ``precision``: a plugin that leaves the batch in float32 for a mixed one.

    >>> make_precision_kwargs("32-true")
    {'precision': '32-true', 'plugins': []}
    """
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if precision == "bf16-mixed":
        return {"precision": None, "plugins": [_BFloat16Mixed(device)]}
    if precision == "16-mixed":
        return {"precision": None, "plugins": [_Float16Mixed("16-mixed", device)]}
    return {"precision": precision, "plugins": []}


@final
class _BFloat16Mixed(Precision):
    """Autocast without a gradient scaler: bfloat16 has the range of float32.

    Not a ``MixedPrecision``, whose ``backward`` makes Fabric refuse ``torch.autograd.grad``.
    """

    precision = "bf16-mixed"

    def __init__(self, device: str) -> None:
        self._device = device

    def forward_context(self) -> AbstractContextManager[Any]:
        """Autocast around the forward pass."""
        return torch.autocast(self._device, dtype=torch.bfloat16)


@final
class _Float16Mixed(MixedPrecision):
    def convert_input(self, data: Any) -> Any:
        """Return the batch unchanged."""
        return data
