"""Numbers as people read them: short, with a unit, and a dash where there is none."""

from __future__ import annotations

import math
import re
from typing import TypeGuard

__all__ = ["NONE", "amount", "duration", "fixed", "percent", "points", "power", "size", "tie", "times"]

NONE = "–"
_UNITS = r"%|k|M|G|T|B|kB|MB|GB|TB|ms|s|min|h|points?|examples|times?|steps"


def percent(value: float | None, *, digits: int = 1) -> str:
    """A fraction as per cent.

    >>> percent(0.9634), percent(1.0), percent(None)
    ('96.3 %', '100.0 %', '–')
    """
    return f"{100 * value:.{digits}f} %".replace("-", "−") if _known(value) else NONE


def points(value: float | None, *, digits: int = 1) -> str:
    """A difference in percentage points, always with its sign; what rounds to zero has none.

    >>> points(3.14), points(-0.5), points(-0.001), points(None)
    ('+3.1', '−0.5', '0.0', '–')
    """
    if not _known(value):
        return NONE
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def fixed(value: float | None, *, digits: int = 3) -> str:
    """A plain number with so many digits after the point.

    >>> fixed(0.01234), fixed(-2.5, digits=1), fixed(None)
    ('0.012', '−2.5', '–')
    """
    return f"{value:.{digits}f}".replace("-", "−") if _known(value) else NONE


def power(value: float | None) -> str:
    """A very small number, with its exponent.

    >>> power(9.5e-7), power(1e-4), power(0.0)
    ('9.5e-7', '1e-4', '0')
    """
    if not _known(value):
        return NONE
    head, _, exponent = f"{value:.1e}".partition("e")
    return f"{head.removesuffix('.0')}e{int(exponent)}" if value else "0"


def amount(value: float | None, *, significant: int = 2) -> str:
    """A count with k, M, G or T; counts under 1000 stay whole.

    >>> amount(512), amount(1_898), amount(94_026), amount(1_210_000), amount(999_960)
    ('512', '1.9 k', '94 k', '1.2 M', '1.0 M')
    """
    return _scaled(value, ("", "k", "M", "G", "T"), significant) if _known(value) else NONE


def size(value: float | None) -> str:
    """Bytes, in powers of 1000.

    >>> size(9_876), size(380_000), size(45)
    ('9.9 kB', '380 kB', '45 B')
    """
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"), 2) if _known(value) else NONE


def duration(seconds: float | None) -> str:
    """How long something took.

    >>> duration(0.42), duration(71.2), duration(4000), duration(None)
    ('0.4 s', '71 s', '67 min', '–')
    """
    if not _known(seconds):
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def times(more: float | None, less: float | None) -> str:
    """How many times ``less`` goes into ``more``.

    >>> times(94_026, 1_898), times(3.1, 1.0), times(25_557_032, 1_898), times(1.0, 0.0)
    ('50×', '3.1×', '13,000×', '–')
    """
    if not _known(more) or not _known(less) or not more or not less:
        return NONE
    ratio = more / less
    if ratio >= 1000:
        return f"{float(f'{ratio:.2g}'):,.0f}×"
    return f"{ratio:.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×" if ratio >= 0.95 else f"{ratio:.2g}×"


def tie(text: str) -> str:
    r"""The same text with each number held to its unit, so that no line breaks between them.

    >>> tie("+3.1 points, 96 %") == "+3.1\u00a0points, 96\u00a0%"
    True
    """
    return re.sub(rf"(?<=\d) (?=(?:{_UNITS})(?!\w))", "\u00a0", text).replace("n = ", "n\u00a0=\u00a0")


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _scaled(value: float, units: tuple[str, ...], significant: int) -> str:
    rank, unit = value, 0
    while unit < len(units) - 1 and float(f"{rank:.{significant}g}") >= 1000:
        rank, unit = rank / 1000, unit + 1
    shown = f"{rank:.0f}" if unit == 0 or rank >= 9.95 else f"{rank:.{significant - 1}f}"
    return f"{shown} {units[unit]}".rstrip()
