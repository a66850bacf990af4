"""Shared style of all plots: inline SVG with the colors of the style sheet.

Matplotlib has no CSS variables, so each color is drawn as a reserved hexadecimal placeholder that is then replaced by
``var(--NAME)``. One plot thus fits the light, the dark and the print style. Text stays text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

from limbeck.core.roles import Role
from limbeck.report.formatting import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from limbeck.report.compare.comparison import VariantResult

__all__ = [
    "COLORS",
    "MARKER_LIMIT",
    "NUM_SERIES",
    "LegendEntry",
    "Plot",
    "VariantStyle",
    "assign_styles",
    "format_step_axis",
    "line_style",
    "make_axes",
    "make_figure",
    "render_svg",
    "role_color",
    "role_marker",
]

NUM_SERIES: Final = 8
MARKER_LIMIT: Final = 12
"""Lines with fewer points have markers."""
_ROLES = (Role.TEACHER, Role.ASSISTANT, Role.BASELINE, Role.NO_ASSISTANTS, Role.DISTILLED)
_MARKERS: Final = dict(zip(_ROLES, "s^ovD", strict=True))
_COLOR_NAMES = ("ink", "muted", "line", "paper", *_ROLES, *(f"t{i}" for i in range(1, NUM_SERIES + 1)))
COLORS: Final = MappingProxyType({str(name): f"#{i:02x}00fe" for i, name in enumerate(_COLOR_NAMES, start=1)})
_FONT_SIZE = 12
_VARIANT_COLORS = ("t3", "t4", "t5", "t8", "t7", "assistant", "no_assistants")
_VARIANT_MARKERS = {"^": "up", "v": "down", "P": "plus", "X": "cross", "p": "penta", "<": "left", ">": "right"}


@final
@dataclass(frozen=True, slots=True)
class LegendEntry:
    """An entry of a legend, which the page sets so that it wraps on a narrow screen."""

    color: str
    marker: str
    label: str


@final
@dataclass(frozen=True, slots=True)
class Plot:
    """A plot for a page.

    Attributes:
        svg: an ``<svg>`` element.
        alt_text: its content as text.
        note: an explanation under the plot.
        legend: the entries of the legend.
    """

    svg: str
    alt_text: str
    note: str = ""
    legend: tuple[LegendEntry, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class VariantStyle:
    """Color name, Matplotlib marker, CSS class of that marker, and line style of a variant, in every plot of a page."""

    color_name: str
    marker: str
    marker_class: str
    dash_index: int

    @property
    def color(self) -> str:
        """The placeholder color for Matplotlib."""
        return COLORS[self.color_name]

    @property
    def line_style(self) -> Any:
        """The line style for Matplotlib."""
        return line_style(self.dash_index)


def assign_styles(variants: Sequence[VariantResult]) -> dict[str, VariantStyle]:
    """A style for each variant; the first teacher, baseline and distilled student have those of their role.

    >>> from limbeck.report.compare import VariantResult
    >>> wide = VariantResult(name="wide", role=Role.DISTILLED)
    >>> assign_styles([VariantResult(name="baseline", role=Role.BASELINE), wide])["wide"].color_name
    'distilled'
    """
    styles: dict[str, VariantStyle] = {}
    free_roles = {Role.TEACHER, Role.BASELINE, Role.DISTILLED}
    index = 0
    for variant in variants:
        if variant.role in free_roles:
            free_roles.remove(variant.role)
            marker = role_marker(variant.role)
            styles[variant.name] = VariantStyle(str(variant.role), marker, marker, 0)
            continue
        marker, marker_class = list(_VARIANT_MARKERS.items())[index % len(_VARIANT_MARKERS)]
        # Once all colors are used the dashes change, so that color and dashes together stay unique.
        color_name, dash_index = _VARIANT_COLORS[index % len(_VARIANT_COLORS)], 1 + index // len(_VARIANT_COLORS)
        styles[variant.name] = VariantStyle(color_name, marker, marker_class, dash_index)
        index += 1
    return styles


def make_figure(width: float, height: float) -> Figure:
    """An empty figure; width and height in CSS pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72)


def make_axes(figure: Figure, *, left: float, bottom: float, right: float, top: float, grid: str = "y") -> Axes:
    """Axes within margins in pixels, with a baseline and a grid behind the data."""
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
    """``figure`` as a scalable ``<svg>`` element; ``name`` prefixes its ids, which are unique on a page."""
    import matplotlib

    buffer = io.BytesIO()
    # Text stays text, which is small and searchable; the salt makes ids reproducible.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "path.simplify": True}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _clean_svg(buffer.getvalue().decode(), name)


def role_color(role: str) -> str:
    """The color of a model by its role."""
    return COLORS[role]


def role_marker(role: str) -> str:
    """The marker of a model by its role, so that color is not the only distinction."""
    return _MARKERS[Role(role)]


def line_style(index: int) -> Any:
    """The line style that distinguishes lines of one color."""
    styles: Sequence[Any] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
    return styles[index % len(styles)]


def format_step_axis(ax: Any) -> None:
    """Optimizer steps as the x-axis, and a few round numbers on a linear y-axis."""
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("optimizer steps", color=COLORS["muted"], fontsize=12, labelpad=6)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    if ax.get_yscale() != "log":
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(lambda value, _: format_count(value) if value else "0")


def _clean_svg(text: str, name: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", text, count=1)
    text = re.sub(r"\s*font-family: [^;\"]*;?", "", text)
    text = re.sub(r"font: ([^\";]*?)([\d.]+px) '[^;\"]*", r"font-size: \2", text)
    text = text.replace("xlink:href", "href")
    # Only clip paths and markers are referenced; their ids must be unique on the page.
    text = re.sub(r"(<g|<path|<text) id=\"(?![mp][0-9a-f]{10}\")[^\"]*\"", r"\1", text)
    text = re.sub(r"(id=\"|href=\"#|url\(#)([mp][0-9a-f]{10})", rf"\1{name}-\2", text)
    for color, placeholder in COLORS.items():
        text = text.replace(placeholder, f"var(--{color})")
    text = re.sub(r"(\d\.\d{2})\d+", r"\1", text)
    return re.sub(r"\s*\n\s*", " ", text).replace("<g >", "<g>").replace("<defs> </defs>", "").strip()
