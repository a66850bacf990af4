"""``docs/methods.md``: every method with its formula, settings and paper, out of the docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from limbeck.workflows.list_losses.cost import SIZES
from limbeck.workflows.list_losses.describe import FORMS, Method
from limbeck.workflows.list_losses.docstrings import markdown
from limbeck.workflows.list_losses.words import kept, learned, tapped

__all__ = ["methods_page"]

_TITLES: Final = {
    "responses": "Responses", "features": "Features", "relations": "Relations", "self": "Without a teacher",
    "truth": "The truth", "other": "Others",
}  # fmt: skip
_HEAD: Final = f"""# Methods

Every term of `limbeck.losses`: a pure function of tensors, and a class that takes its tensors out of an exchange and is
named in a recipe by `use`. All follow one convention: the sum over classes, the mean over rows, times tau²; float32
inside; no gradient to a teacher. [Add a method](add-a-method.md) says how to bring another.

This page is generated from the docstrings: `limbeck methods --markdown > docs/methods.md`. *Taps* are the settings that
name tapped layers, in brackets where they may be left out. *Learns* is how many numbers a term learns itself and
*keeps* what it remembers from batch to batch, for {SIZES}."""


def methods_page(listed: Sequence[Method]) -> str:
    """The page: for each form of knowledge a table, and under it the methods."""
    parts = [_HEAD]
    for form in FORMS:
        found = [method for method in listed if method.form == form]
        if found:
            parts += [f"## {_TITLES[form]}", _table(found), *map(_section, found)]
    return "\n\n".join(parts) + "\n"


def _table(listed: Sequence[Method]) -> str:
    rows = [
        (
            f"[{one.name}](#{one.name.lower()})", one.what, _links(one), _code(tapped(one)), learned(one.cost),
            kept(one.cost),
        )
        for one in listed
    ]  # fmt: skip
    lines = [("term", "compares", "paper", "taps", "learns", "keeps"), ("---",) * 6, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def _section(method: Method) -> str:
    parts = [f"### {method.name}", markdown(method.text)]
    for function in method.functions:
        parts += [f"```python\n{_signature(function)}\n```", markdown(inspect.getdoc(function) or "")]
    parts.append(f"**`{method.name}`** {markdown(inspect.getdoc(method.term) or '')}")
    return "\n\n".join(parts)


def _signature(function: Callable[..., Any]) -> str:
    # Annotations are kept as text, which inspect puts in quotes.
    return function.__name__ + re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))


def _links(method: Method) -> str:
    return f"[paper]({method.papers[0]})" if method.papers else "–"


def _code(text: str) -> str:
    return text if text == "–" else f"`{text}`"
