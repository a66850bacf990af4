"""How layers and costs of a loss are written."""

from __future__ import annotations

from limbeck.workflows.list_losses.cost import LossCost
from limbeck.workflows.list_losses.describe import LossInfo

__all__ = ["format_buffers", "format_layer_args", "format_parameters"]


def format_layer_args(loss: LossInfo) -> str:
    """The arguments that name layers."""
    return ", ".join(loss.layer_args) or "–"


def format_parameters(cost: LossCost) -> str:
    """How many numbers it learns.

    >>> format_parameters(LossCost(num_parameters=544, buffer_bytes=0)), format_parameters(LossCost(num_parameters=0, buffer_bytes=0)), format_parameters(LossCost(num_parameters=None, buffer_bytes=None))
    ('544', '–', 'yes')
    """
    return "yes" if cost.num_parameters is None else f"{cost.num_parameters:,}" if cost.num_parameters else "–"


def format_buffers(cost: LossCost) -> str:
    """What it remembers.

    >>> format_buffers(LossCost(num_parameters=0, buffer_bytes=0)), format_buffers(LossCost(num_parameters=0, buffer_bytes=80)), format_buffers(LossCost(num_parameters=0, buffer_bytes=16 * 2**20))
    ('–', '80 B', '16.0 MB')
    """
    if cost.buffer_bytes is None:
        return "?"
    for unit, size in (("MB", 2**20), ("kB", 2**10)):
        if cost.buffer_bytes >= size:
            return f"{cost.buffer_bytes / size:.1f} {unit}"
    return f"{cost.buffer_bytes} B" if cost.buffer_bytes else "–"
