"""Figures as inline SVG in the page's own colors: Matplotlib draws, the style sheet decides what ink looks like.

Matplotlib knows no CSS variables, so each ink is drawn in a colour nobody would choose and then renamed to
``var(--NAME)``. One picture is thus right on light paper, on a dark screen and in print. Text stays text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

from limbeck.core.roles import Role

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "NUM_SERIES",
    "LegendEntry",
    "Plot",
    "line_style",
    "make_axes",
    "make_figure",
    "render_svg",
    "role_color",
    "role_marker",
]

NUM_SERIES: Final = 8
_ROLES = (Role.TEACHER, Role.ASSISTANT, Role.BASELINE, Role.NO_ASSISTANTS, Role.DISTILLED)
_MARKERS: Final = dict(zip(_ROLES, "s^ovD", strict=True))
_COLOR_NAMES = (
    "ink",
    "muted",
    "line",
    "paper",
    *(role.value for role in _ROLES),
    *(f"t{i}" for i in range(1, NUM_SERIES + 1)),
)
COLORS: Final = MappingProxyType({name: f"#{i:02x}00fe" for i, name in enumerate(_COLOR_NAMES, start=1)})
_FONT_SIZE = 12


@final
@dataclass(frozen=True, slots=True)
class LegendEntry:
    """One entry of a legend, set by the page so that it wraps on a phone: an ink, a mark and words."""

    color: str
    marker: str
    label: str


@final
@dataclass(frozen=True, slots=True)
class Plot:
    """A picture for the page.

    Attributes:
        svg: the picture, a whole ``<svg>`` element.
        alt_text: what it shows, in words.
        note: what a reader must know to read it.
        legend: its entries.
    """

    svg: str
    alt_text: str
    note: str = ""
    legend: tuple[LegendEntry, ...] = ()


def make_figure(width: float, height: float) -> Figure:
    """An empty picture of so many CSS pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72)


def make_axes(figure: Figure, *, left: float, bottom: float, right: float, top: float, grid: str = "y") -> Axes:
    """Axes within margins in pixels: a base line, hairlines behind the data, no box."""
    width, height = figure.get_size_inches() * 72
    ax = figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height), facecolor="none"
    )
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(COLORS["muted"])
        spine.set_linewidth(1)
    ax.tick_params(length=0, pad=6, labelcolor=COLORS["muted"], labelsize=_FONT_SIZE)
    ax.grid(axis=grid, color=COLORS["line"], linewidth=1)  # type: ignore[arg-type]
    ax.set_axisbelow(True)
    return ax


def render_svg(figure: Figure, *, name: str) -> str:
    """``figure`` as one ``<svg>`` element that scales with its place; ``name`` keeps its ids apart from others'."""
    import matplotlib

    buffer = io.BytesIO()
    # Text as text is small and can be searched; the salt makes the same run give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "path.simplify": True}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _clean_svg(buffer.getvalue().decode(), name)


def role_color(role: str) -> str:
    """The ink of a model by its role."""
    return COLORS[role]


def role_marker(role: str) -> str:
    """The mark of a model by its role, so that no reader depends on colour."""
    return _MARKERS[Role(role)]


def line_style(index: int) -> Any:
    """Line styles for several teachers, or several assistants, who share one ink."""
    styles: Sequence[Any] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
    return styles[index % len(styles)]


def _clean_svg(text: str, name: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", text, count=1)
    text = re.sub(r"\s*font-family: [^;\"]*;?", "", text)
    text = re.sub(r"font: ([^\";]*?)([\d.]+px) '[^;\"]*", r"font-size: \2", text)
    text = text.replace("xlink:href", "href")
    # Only clips and marks are ever referred to; two pictures on one page must not share their names.
    text = re.sub(r"(<g|<path|<text) id=\"(?![mp][0-9a-f]{10}\")[^\"]*\"", r"\1", text)
    text = re.sub(r"(id=\"|href=\"#|url\(#)([mp][0-9a-f]{10})", rf"\1{name}-\2", text)
    for color, placeholder in COLORS.items():
        text = text.replace(placeholder, f"var(--{color})")
    text = re.sub(r"(\d\.\d{2})\d+", r"\1", text)
    return re.sub(r"\s*\n\s*", " ", text).replace("<g >", "<g>").replace("<defs> </defs>", "").strip()
