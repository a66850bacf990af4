"""Shared style of all plots: inline SVG with the colors of the style sheet.

Matplotlib has no CSS variables, so each color is drawn as a reserved hexadecimal placeholder that is then replaced by
``var(--NAME)``. One plot thus fits the light, the dark and the print style. Text stays text.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from limbeck.core.roles import Role
from limbeck.report.compare.comparison import VariantResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_SERIES: Final = 8
_ROLES = (Role.TEACHER, Role.ASSISTANT, Role.BASELINE, Role.NO_ASSISTANTS, Role.DISTILLED)
MARKERS: Final = MappingProxyType(dict(zip(_ROLES, "s^ovD", strict=True)))
"""The marker of a model by its role, so that color is not the only distinction."""
_COLOR_NAMES = ("ink", "muted", "line", "paper", *_ROLES, *(f"t{i}" for i in range(1, NUM_SERIES + 1)))
COLORS: Final = MappingProxyType({str(name): f"#{i:02x}00fe" for i, name in enumerate(_COLOR_NAMES, start=1)})
"""The placeholders by name; the color of a model has the name of its role."""
LINE_STYLES: Final[Sequence[Any]] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
"""Solid, dashed, dotted, dash-dotted."""
_FONT_SIZE = 12
_VARIANT_COLORS = ("t3", "t4", "t5", "t8", "t7", "assistant", "no_assistants")
_VARIANT_MARKERS = (
    ("^", "up"), ("v", "down"), ("P", "plus"), ("X", "cross"), ("p", "penta"), ("<", "left"), (">", "right"),
)  # fmt: skip


class LegendEntry(NamedTuple):
    """An entry of a legend, which the page sets so that it wraps on a narrow screen."""

    color: str
    marker: str
    label: str


class Plot(NamedTuple):
    """A plot for a page: an ``<svg>`` element, its content as text, an explanation under it, and its legend."""

    svg: str
    alt_text: str
    note: str = ""
    legend: Sequence[LegendEntry] = ()


class HoverPoint(NamedTuple):
    """A text that a browser shows over a part of a plot: a circle at data coordinates, or (no ``y``) a whole column."""

    x: float
    y: float | None
    text: str


class VariantStyle(NamedTuple):
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
        return LINE_STYLES[self.dash_index % len(LINE_STYLES)]


def assign_styles(variants: Sequence[VariantResult]) -> dict[str, VariantStyle]:
    """A style for each variant; the first teacher, baseline and distilled student have those of their role.

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
            marker = MARKERS[variant.role]
            styles[variant.name] = VariantStyle(str(variant.role), marker, marker, 0)
            continue
        # Once all colors are used the dashes change, so that color and dashes together stay unique.
        num_rounds, color_index = divmod(index, len(_VARIANT_COLORS))
        marker_and_class = _VARIANT_MARKERS[index % len(_VARIANT_MARKERS)]
        styles[variant.name] = VariantStyle(_VARIANT_COLORS[color_index], *marker_and_class, 1 + num_rounds)
        index += 1
    return styles


def make_figure(width: float, height: float) -> Figure:
    """An empty figure; width and height in CSS pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72)


def make_plot(height: float, **margins: Any) -> Any:
    """Axes on a figure of the usual width; ``margins`` as in :func:`make_axes`."""
    return make_axes(make_figure(420, height), **margins)


def make_axes(
    figure: Figure, *, left: float = 48, bottom: float = 44, right: float = 14, top: float = 12, grid: str = "y"
) -> Any:
    """Axes within margins in pixels, with a baseline and a grid behind the data."""
    width, height = figure.get_size_inches() * 72
    ax: Any = figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height), facecolor="none"
    )
    for side, spine in ax.spines.items():
        spine.set(visible=side == "bottom", color=COLORS["muted"], linewidth=1)
    ax.tick_params(length=0, pad=6, labelcolor=COLORS["muted"], labelsize=_FONT_SIZE)
    ax.grid(axis=grid, color=COLORS["line"], linewidth=1)
    ax.set_axisbelow(True)
    ax.set_prop_cycle(color=[COLORS[f"t{i}"] for i in range(1, NUM_SERIES + 1)])
    return ax


def set_label(axis: Any, text: str, *, pad: float = 6) -> None:
    """The label of one axis."""
    axis.set_label_text(text, color=COLORS["muted"], fontsize=_FONT_SIZE)
    axis.labelpad = pad


def render_plot(
    ax: Any, name: str, alt_text: str, note: str = "", legend: Sequence[LegendEntry] = (),
    *, hover: Sequence[HoverPoint] = (),
) -> Plot:  # fmt: skip
    """The figure of ``ax`` as a plot for a page; ``name`` as in :func:`render_svg`."""
    svg = render_svg(ax.figure, name=name).removesuffix("</svg>")
    return Plot(f"{svg}{_hover_marks(ax, hover)}</svg>", alt_text, note, legend)


def _hover_marks(ax: Any, hover: Sequence[HoverPoint]) -> str:
    """Transparent SVG shapes with titles, which browsers show without a script."""
    box, height = ax.get_window_extent(), ax.figure.get_window_extent().height
    marks, columns = [], sorted({ax.transData.transform((point.x, 1.0))[0] for point in hover if point.y is None})
    for point in hover:
        title = f"<title>{html.escape(point.text)}</title>"
        if point.y is not None:
            x, y = ax.transData.transform((point.x, point.y))
            marks.append(
                f'<circle class="hover" fill="transparent" cx="{x:.1f}" cy="{height - y:.1f}" r="11">{title}</circle>'
            )
            continue
        x = ax.transData.transform((point.x, 1.0))[0]
        index = columns.index(x)
        left = (columns[index - 1] + x) / 2 if index else box.x0
        right = (columns[index + 1] + x) / 2 if index + 1 < len(columns) else box.x1
        marks.append(
            f'<rect class="hover" fill="transparent" x="{left:.1f}" y="{height - box.y1:.1f}" '
            f'width="{max(right - left, 0.1):.1f}" height="{box.height:.1f}">{title}</rect>'
        )
    return "".join(marks)


def render_svg(figure: Figure, *, name: str) -> str:
    """``figure`` as a scalable ``<svg>`` element; ``name`` prefixes its ids, which are unique on a page."""
    import matplotlib

    buffer = io.BytesIO()
    # Text stays text, which is small and searchable; the salt makes ids reproducible.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "path.simplify": True}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().decode()
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
    text = re.sub(r"(\d\.\d{2})\d+(?![^<>]*</text>)", r"\1", text)  # coordinates, not labels
    return re.sub(r"\s*\n\s*", " ", text).replace("<g >", "<g>").replace("<defs> </defs>", "").strip()
