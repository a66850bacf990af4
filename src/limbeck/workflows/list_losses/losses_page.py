"""The losses as a table for the terminal, and as the page ``docs/methods.md``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from limbeck.workflows.list_losses.loss_info import EXAMPLE_SIZES, KNOWLEDGE_KINDS, LossInfo

__all__ = ["losses_page", "losses_table"]

_KNOWLEDGE_TITLES: Final = dict(
    zip(KNOWLEDGE_KINDS, ("Responses", "Features", "Relations", "Without a teacher", "Labels", "Others"), strict=True)
)
_HEADER: Final = f"""# Methods

Every loss of `limbeck.losses` is a pure function of tensors, and a class that reads these tensors from a loss context
and is named in a recipe by `use`. All follow one convention: sum over classes, mean over rows, times τ²; float32
inside; no gradient to a teacher. `help(limbeck.losses.kd_loss)` shows shapes, arguments and an example;
[Add a loss](add-a-method.md) shows how to add another.

This page is generated: `limbeck losses --markdown > docs/methods.md`. Layers in brackets are optional. Parameters and
buffers are those of the loss itself, for {EXAMPLE_SIZES}."""


def losses_page(losses: Sequence[LossInfo]) -> str:
    """The page: one table for each kind of knowledge."""
    sections = [_HEADER]
    for kind, title in _KNOWLEDGE_TITLES.items():
        rows = [
            (f"`{loss.name}`", loss.title, loss.formula.replace("``", "`"),
            f"[paper]({loss.paper})" if loss.paper else "–", *_sizes(loss))
            for loss in losses
            if loss.knowledge == kind
        ]  # fmt: skip
        if rows:
            head = ("loss", "compares", "formula", "paper", "needs", "parameters", "buffers")
            lines = [head, ("---",) * len(head), *rows]
            table = "\n".join("| " + " | ".join(value.replace("|", "\\|") for value in row) + " |" for row in lines)
            sections += [f"## {title}", table]
    return "\n\n".join(sections) + "\n"


def losses_table(losses: Sequence[LossInfo]) -> str:
    """One line for each loss, and a line on the sizes below."""
    rows = [("loss", "knowledge", "needs", "parameters", "buffers", "paper")]
    rows += [(loss.name, loss.knowledge, *_sizes(loss), loss.paper or "–") for loss in losses]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", f"parameters, buffers: for {EXAMPLE_SIZES}; formulas: docs/methods.md"])


def _sizes(loss: LossInfo) -> tuple[str, str, str]:
    parameters = "yes" if loss.num_parameters is None else f"{loss.num_parameters:,}" if loss.num_parameters else "–"
    return ", ".join(loss.needs) or "–", parameters, _format_bytes(loss.buffer_bytes)


def _format_bytes(count: int | None) -> str:
    """``count`` with its unit.

    >>> _format_bytes(0), _format_bytes(80), _format_bytes(16 * 2**20), _format_bytes(None)
    ('–', '80 B', '16.0 MB', '?')
    """
    if count is None:
        return "?"
    for unit, size in (("MB", 2**20), ("kB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B" if count else "–"
