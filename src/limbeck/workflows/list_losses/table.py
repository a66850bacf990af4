"""The losses as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.workflows.list_losses.cost import EXAMPLE_SIZES
from limbeck.workflows.list_losses.describe import LossInfo
from limbeck.workflows.list_losses.words import format_buffers, format_layer_args, format_parameters

__all__ = ["losses_table"]


def losses_table(losses: Sequence[LossInfo]) -> str:
    """One line for each: name, knowledge, layers, parameters, buffers, and the paper; a line on the sizes below."""
    rows = [("loss", "knowledge of", "layers", "parameters", "buffers", "paper")]
    rows += [
        (
            loss.name,
            loss.knowledge,
            format_layer_args(loss),
            format_parameters(loss.cost),
            format_buffers(loss.cost),
            next(iter(loss.papers), "–"),
        )
        for loss in losses
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        [
            *lines,
            "",
            f"parameters, buffers: for {EXAMPLE_SIZES}; what each is: docs/methods.md, or help(limbeck.losses)",
        ]
    )
