"""``docs/methods.md``: every loss with its formula, settings and paper, out of the docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from limbeck.workflows.list_losses.cost import EXAMPLE_SIZES
from limbeck.workflows.list_losses.describe import KNOWLEDGE_KINDS, LossInfo
from limbeck.workflows.list_losses.docstrings import to_markdown
from limbeck.workflows.list_losses.words import format_buffers, format_layer_args, format_parameters

__all__ = ["losses_page"]

_KNOWLEDGE_TITLES: Final = {
    "responses": "Responses", "features": "Features", "relations": "Relations", "self": "Without a teacher",
    "target": "The target", "other": "Others",
}  # fmt: skip
_HEADER: Final = f"""# Methods

Every loss of `limbeck.losses`: a pure function of tensors,
and a class that takes its tensors out of a loss context and is
named in a recipe by `use`. All follow one convention: the sum over classes, the mean over rows, times τ²; float32
inside; no gradient to a teacher. [Add a loss](add-a-method.md) shows how to add another.

This page is generated from the docstrings: `limbeck losses --markdown > docs/methods.md`. *Layers* are the settings that
name layers, in brackets where they may be left out. *Parameters* is how many numbers a loss learns itself and
*buffers* what it keeps from batch to batch, for {EXAMPLE_SIZES}."""


def losses_page(losses: Sequence[LossInfo]) -> str:
    """The page: for each form of knowledge a table, and under it the losses."""
    sections = [_HEADER]
    for knowledge in KNOWLEDGE_KINDS:
        group = [loss for loss in losses if loss.knowledge == knowledge]
        if group:
            sections += [f"## {_KNOWLEDGE_TITLES[knowledge]}", _format_table(group), *map(_format_section, group)]
    return "\n\n".join(sections) + "\n"


def _format_table(losses: Sequence[LossInfo]) -> str:
    rows = [
        (
            f"[{loss.name}](#{loss.name.lower()})", loss.summary, _format_paper_link(loss),
            _format_code(format_layer_args(loss)), format_parameters(loss.cost),
            format_buffers(loss.cost),
        )
        for loss in losses
    ]  # fmt: skip
    lines = [("loss", "compares", "paper", "layers", "parameters", "buffers"), ("---",) * 6, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def _format_section(loss: LossInfo) -> str:
    parts = [f"### {loss.name}", to_markdown(loss.docstring)]
    for function in loss.functions:
        parts += [f"```python\n{_format_signature(function)}\n```", to_markdown(inspect.getdoc(function) or "")]
    parts.append(f"**`{loss.name}`** {to_markdown(inspect.getdoc(loss.loss_class) or '')}")
    return "\n\n".join(parts)


def _format_signature(function: Callable[..., Any]) -> str:
    # Annotations are kept as text, which inspect puts in quotes.
    return function.__name__ + re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))


def _format_paper_link(loss: LossInfo) -> str:
    return f"[paper]({loss.papers[0]})" if loss.papers else "–"


def _format_code(text: str) -> str:
    return text if text == "–" else f"`{text}`"
