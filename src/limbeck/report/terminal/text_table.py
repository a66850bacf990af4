"""The table of the terminal: one style, rendered by Rich as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["make_table", "render_text"]


def make_table(text: Sequence[str], numbers: Sequence[str] = (), *, title: str = "") -> Table:
    """An empty table with left-aligned ``text`` columns and then right-aligned ``numbers`` columns, by heading."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="dim", pad_edge=False,
        show_header=any((*text, *numbers)),
    )  # fmt: skip
    for heading in text:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def render_text(*renderables: RenderableType, width: int = 100) -> str:
    """Tables and lines as plain text without colors, markup and trailing spaces."""
    from rich.console import Console

    console = Console(width=width, no_color=True, highlight=False, force_terminal=False, markup=False, emoji=False)
    with console.capture() as capture:
        for renderable in renderables:
            console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().strip("\n").splitlines())
