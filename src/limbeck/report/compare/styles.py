"""The style of each variant: a color, a marker and a line, the same in every plot and table of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from limbeck.core.roles import Role
from limbeck.report.compare.comparison import VariantResult
from limbeck.report.plots import style as ink

__all__ = ["VariantStyle", "assign_styles"]

_ROLE_STYLES = {role: (role.value, ink.role_marker(role)) for role in (Role.TEACHER, Role.BASELINE, Role.DISTILLED)}
_COLORS = ("t3", "t4", "t5", "t8", "t7", "assistant", "no_assistants")
_MARKERS = {"^": "up", "v": "down", "P": "plus", "X": "cross", "p": "penta", "<": "left", ">": "right"}


@final
@dataclass(frozen=True, slots=True)
class VariantStyle:
    """The name of a color, Matplotlib's marker, and the CSS class of the same marker on the page."""

    color_name: str
    marker: str
    marker_class: str
    dash_index: int

    @property
    def color(self) -> str:
        """What Matplotlib draws with."""
        return ink.COLORS[self.color_name]

    @property
    def line_style(self) -> Any:
        """The line."""
        return ink.line_style(self.dash_index)


def assign_styles(variants: Sequence[VariantResult]) -> dict[str, VariantStyle]:
    """A style for every variant; the first teacher, baseline and distilled student keep those of a run's own page.

    >>> wide = VariantResult(name="wide", role=Role.DISTILLED)
    >>> assign_styles([VariantResult(name="baseline", role=Role.BASELINE), wide])["wide"].color_name
    'distilled'
    """
    styles: dict[str, VariantStyle] = {}
    used_roles: set[str] = set()
    index = 0
    for variant in variants:
        if variant.role in _ROLE_STYLES and variant.role not in used_roles:
            used_roles.add(variant.role)
            name, marker = _ROLE_STYLES[variant.role]
            styles[variant.name] = VariantStyle(name, marker, marker, 0)
            continue
        marker = tuple(_MARKERS)[index % len(_MARKERS)]
        # Once every ink is taken the line is another: ink and dash together are still nobody else's.
        styles[variant.name] = VariantStyle(
            _COLORS[index % len(_COLORS)], marker, _MARKERS[marker], 1 + index // len(_COLORS)
        )
        index += 1
    return styles
