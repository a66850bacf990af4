"""Formats numbers as short text with a unit; ``None`` and NaN are a dash. The templates use them as Jinja filters."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypeGuard

from limbeck.core.metric_spec import MetricSpec
from limbeck.utils.console import escape_controls
from limbeck.utils.durations import format_duration as format_duration  # a filter of the templates

if TYPE_CHECKING:
    from limbeck.report.latency import LatencyInterval

MISSING = "–"
_UNIT_PATTERN = r"%|k|M|G|T|B|kB|MB|GB|TB|ms|s|min|h|points?|examples|times?|steps"


def format_fixed(value: float | None, *, digits: int = 3) -> str:
    """A number with ``digits`` digits after the point.

    >>> format_fixed(0.01234), format_fixed(-2.5, digits=1), format_fixed(None)
    ('0.012', '−2.5', '–')
    """
    return f"{value:.{digits}f}".replace("-", "−") if _is_finite(value) else MISSING


def format_percent(value: float | None, *, digits: int = 1) -> str:
    """A fraction as a percentage.

    >>> format_percent(0.9634), format_percent(1.0), format_percent(None)
    ('96.3 %', '100.0 %', '–')
    """
    return f"{format_fixed(100 * value, digits=digits)} %" if _is_finite(value) else MISSING


def format_percent_value(value: float | None, *, digits: int = 1) -> str:
    """A fraction as a percentage without the % sign, for columns with % in the heading."""
    return format_percent(value, digits=digits).removesuffix(" %")


def format_points(value: float | None, *, digits: int = 1) -> str:
    """A difference in percentage points, always with a sign; a value that rounds to zero has none.

    >>> format_points(3.14), format_points(-0.5), format_points(-0.001), format_points(None)
    ('+3.1', '−0.5', '0.0', '–')
    """
    if not _is_finite(value):
        return MISSING
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def format_interval(low: float | None, high: float | None, *, digits: int = 1) -> str:
    """Both ends of an interval in percentage points, with more digits where an end would be rounded to zero.

    >>> format_interval(-0.5, 1.25), format_interval(0.03, 0.12), format_interval(0.0, 1.0)
    ('−0.5 to +1.2', '+0.03 to +0.12', '0.0 to +1.0')
    """
    ends = [end for end in (low, high) if end]
    more = (n for n in range(digits, digits + 4) if all(round(end, n) for end in ends if _is_finite(end)))
    digits = next(more, digits)  # an end of rounding errors stays zero
    return f"{format_points(low, digits=digits)} to {format_points(high, digits=digits)}"


def format_difference(value: float | None, reference: float | None, *, digits: int = 3) -> str:
    """``value`` minus ``reference`` with its sign."""
    return MISSING if value is None or reference is None else format_points(value - reference, digits=digits)


def format_percent_difference(value: float | None, reference: float | None) -> str:
    """The difference of two fractions in percentage points."""
    return MISSING if value is None or reference is None else format_points(100 * (value - reference))


def format_metric_number(value: float | None, metric: MetricSpec) -> str:
    """A metric without its unit, for columns with the unit in the heading."""
    return metric.format(value).removesuffix(f" {metric.unit}")


def format_metric_difference(value: float | None, reference: float | None, metric: MetricSpec) -> str:
    """``value`` minus ``reference`` with its sign, as shown; below zero is better where lower is better.

    >>> format_metric_difference(0.25, 0.375, MetricSpec(name="per", label="PER", higher_is_better=False))
    '−12.5'
    """
    if value is None or reference is None:
        return MISSING
    return format_points(metric.display_scale * (value - reference), digits=_gain_digits(metric))


def format_gain(gain: float | None, metric: MetricSpec, *, digits: int = 0) -> str:
    """A gain, which is in the metric's unit of differences, with its sign and at least ``digits`` decimals."""
    text = format_points(gain, digits=max(_gain_digits(metric), digits))
    return text if text == MISSING else f"{text} {metric.difference_unit}".rstrip()


def format_gain_number(gain: float | None, metric: MetricSpec) -> str:
    """A gain with its sign, for columns with the unit in the heading."""
    return format_points(gain, digits=_gain_digits(metric))


def format_gain_interval(interval: Sequence[float | None], metric: MetricSpec, *, digits: int = 0) -> str:
    """Both ends of the interval of a gain, without the unit."""
    low, high = interval
    return format_interval(low, high, digits=max(_gain_digits(metric), digits))


def _gain_digits(metric: MetricSpec) -> int:
    """One for points, as many as of a value for other units."""
    return 1 if metric.unit == "%" else metric.digits


def format_scientific(value: float | None) -> str:
    """A number in scientific notation.

    >>> format_scientific(9.5e-7), format_scientific(1e-4), format_scientific(0.0)
    ('9.5e-7', '1e-4', '0')
    """
    if not _is_finite(value):
        return MISSING
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}" if value else "0"


def format_integer(value: float | None) -> str:
    """An integer with thousands separators."""
    return f"{value:,.0f}" if _is_finite(value) else MISSING


def format_count(value: float | None) -> str:
    """A count with k, M, G or T; counts below 1000 are written in full.

    >>> format_count(512), format_count(1_898), format_count(94_026), format_count(1_210_000), format_count(999_960)
    ('512', '1.9 k', '94 k', '1.2 M', '1.0 M')
    """
    return _format_scaled(value, ("", "k", "M", "G", "T"))


def format_bytes(value: float | None) -> str:
    """A size in bytes, with decimal prefixes.

    >>> format_bytes(9_876), format_bytes(380_000), format_bytes(45)
    ('9.9 kB', '380 kB', '45 B')
    """
    return _format_scaled(value, ("B", "kB", "MB", "GB", "TB"))


def format_milliseconds(value: float | None) -> str:
    """A latency without its unit.

    >>> format_milliseconds(0.0497), format_milliseconds(3.14), format_milliseconds(1234.5)
    ('0.050', '3.14', '1,234')
    """
    if value is None:
        return MISSING
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def format_latency(value: float | None) -> str:
    """A latency in milliseconds with three significant digits."""
    return f"{value:.3g} ms" if value else MISSING


def format_date(iso: str) -> str:
    """An ISO time as date and time of day; other text stays as it is.

    >>> format_date("2026-11-29T21:42:58+00:00"), format_date("unknown")
    ('29 November 2026, 21:42 UTC', 'unknown')
    """
    try:
        time = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{time.day} {time:%B %Y, %H:%M} {time.tzname() or ''}".rstrip()


def format_ratio(numerator: float | None, denominator: float | None) -> str:
    """``numerator / denominator`` with a multiplication sign.

    >>> format_ratio(94_026, 1_898), format_ratio(3.1, 1.0), format_ratio(25_557_032, 1_898), format_ratio(1.0, 0.0)
    ('50×', '3.1×', '13,000×', '–')
    """
    if not _is_finite(numerator) or not _is_finite(denominator) or not numerator or not denominator:
        return MISSING
    ratio = numerator / denominator
    if ratio >= 1000:
        return f"{float(f'{ratio:.2g}'):,.0f}×"
    return f"{ratio:.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×" if ratio >= 0.95 else f"{ratio:.2g}×"


def format_relative_cost(value: float | None, reference: float | None) -> str:
    """A cost relative to ``reference``: how many times smaller (÷) or larger (×).

    >>> [format_relative_cost(value, reference) for value, reference in ((1, 50), (50, 1), (100, 98), (3, 3))]
    ['÷50', '×50', '≈', '=']
    """
    if not value or not reference:
        return MISSING
    if abs(value / reference - 1) < 0.05:
        return "=" if value == reference else "≈"
    low, high = sorted((value, reference))
    return f"{'÷' if value < reference else '×'}{format_ratio(high, low).removesuffix('×')}"


def format_relative_latency(latency: LatencyInterval | None, reference: LatencyInterval | None) -> str:
    """A latency relative to ``reference``, as :func:`format_relative_cost`; ≈ where their intervals overlap."""
    if latency is None or reference is None:
        return MISSING
    if latency != reference and latency.equals(reference):
        return "≈"
    return format_relative_cost(latency.median, reference.median)


def join_number_and_unit(text: str) -> str:
    r"""``text`` with a non-breaking space between each number and its unit.

    >>> join_number_and_unit("+3.1 points, 96 %") == "+3.1\u00a0points, 96\u00a0%"
    True
    """
    return re.sub(rf"(?<=\d) (?=(?:{_UNIT_PATTERN})(?!\w))", "\u00a0", text).replace("n = ", "n\u00a0=\u00a0")


def escape_markdown(text: object) -> str:
    r"""``text`` on one line, with Markdown and HTML escaped.

    >>> print(escape_markdown("<b>[x](y)</b>\n# 1"))
    &lt;b&gt;\[x\](y)&lt;/b&gt; \# 1
    """
    line = escape_controls(" ".join(str(text).split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]{}#|~$!])", r"\\\1", line)


def escape_csv(text: str) -> str:
    """``text`` for a cell: without control characters, and with a quote before what a spreadsheet takes for a formula.

    >>> escape_csv("=HYPERLINK(A1)"), escape_csv("student")
    ("'=HYPERLINK(A1)", 'student')
    """
    is_formula = re.match(r"\s*[=+\-@\t\r\n＝＋－＠]", text)
    return f"'{escape_controls(text)}" if is_formula else escape_controls(text)


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _format_scaled(value: float | None, units: tuple[str, ...]) -> str:
    """Two significant digits and a unit."""
    if not _is_finite(value):
        return MISSING
    unit_index = 0
    while unit_index < len(units) - 1 and float(f"{value:.2g}") >= 1000:
        value, unit_index = value / 1000, unit_index + 1
    number = f"{value:.0f}" if unit_index == 0 or value >= 9.95 else f"{value:.1f}"
    return f"{number} {units[unit_index]}".rstrip()
