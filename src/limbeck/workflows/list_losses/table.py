"""The losses as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.report.terminal.text_table import make_table, render_text
from limbeck.workflows.list_losses.cost import EXAMPLE_SIZES
from limbeck.workflows.list_losses.describe import LossInfo
from limbeck.workflows.list_losses.words import format_buffers, format_layer_args, format_parameters

__all__ = ["losses_table"]


def losses_table(losses: Sequence[LossInfo]) -> str:
    """One line for each loss: name, knowledge, layers, parameters, buffers, and paper; then the sizes they are for."""
    table = make_table(["loss", "knowledge of", "layers", "parameters", "buffers", "paper"])
    for loss in losses:
        table.add_row(
            loss.name, loss.knowledge, format_layer_args(loss), format_parameters(loss.cost),
            format_buffers(loss.cost), next(iter(loss.papers), "–"),
        )  # fmt: skip
    note = f"parameters, buffers: for {EXAMPLE_SIZES}; what each is: docs/methods.md, or help(limbeck.losses)"
    return f"{render_text(table, width=240)}\n\n{note}"
