"""Mixed precision that leaves the batch in float32.

Lightning Fabric converts every float of a batch to the 16-bit type before autocast. Here images and soft labels stay
float32 and autocast converts the operands of matrix products, so that teachers and caches get the images of every other
run.
"""

from __future__ import annotations

from typing import Any, final

import torch
from lightning_fabric.plugins import MixedPrecision

__all__ = ["make_precision_kwargs"]


def make_precision_kwargs(precision: Any) -> dict[str, Any]:
    """Arguments of Fabric for ``precision``: a plugin that leaves the batch in float32 for a mixed one.

    >>> make_precision_kwargs("32-true")
    {'precision': '32-true', 'plugins': []}
    """
    if precision not in ("bf16-mixed", "16-mixed"):
        return {"precision": precision, "plugins": []}
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return {"precision": None, "plugins": [_AutocastOnly(precision, device)]}


@final
class _AutocastOnly(MixedPrecision):
    def convert_input(self, data: Any) -> Any:
        """Return the batch unchanged."""
        return data

    def convert_output(self, data: Any) -> Any:
        """Return the loss unchanged: it is computed in float32."""
        return data
