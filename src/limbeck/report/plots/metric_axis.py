"""A y-axis with values of a metric as they are shown, and its limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from limbeck.core.metric_spec import MetricSpec
from limbeck.report.formatting import format_fixed
from limbeck.report.plots import style as ink


def axis_margin(metric: MetricSpec, left: float) -> float:
    """The left margin in pixels; a unit of several letters is the label of the axis, and needs more."""
    return left + (22 if len(metric.unit) > 1 else 0)


def format_metric_axis(ax: Any, metric: MetricSpec) -> None:
    """A few round ticks with the unit, for y-values that are scaled as shown."""
    from matplotlib.ticker import MaxNLocator

    low, high = ax.get_ylim()
    ticks = [tick for tick in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= tick <= high]
    if metric.unit == "%" and metric.higher_is_better:
        ticks = [tick for tick in ticks if tick <= 100]
    digits = next((n for n in range(6) if all(abs(round(tick, n) - tick) < 1e-9 for tick in ticks)), 6)
    unit = f" {metric.unit}" if len(metric.unit) == 1 else ""
    ax.set_yticks(ticks, [f"{format_fixed(tick, digits=digits)}{unit}" for tick in ticks])
    if len(metric.unit) > 1:
        ink.set_label(ax.yaxis, metric.unit)


def curve_limits(metric: MetricSpec, curves: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Limits of the y-axis, which leave out bad values of the first tenth of a training.

    Args:
        metric: tells which direction is better.
        curves: values as shown, at least one in each.

    >>> error_rate = MetricSpec(name="per", label="PER", higher_is_better=False)
    >>> curve_limits(error_rate, [[130.0, *[30.0 - i for i in range(10)]]])
    (20.3, 35.0)
    """
    sign = metric.sign
    worst = min(min(sign * value for value in values[len(values) // 10 :]) for values in curves)
    best = max(sign * value for values in curves for value in values)
    spread = best - worst
    step = 5.0 if metric.unit == "%" else 10.0 ** math.floor(math.log10(spread or abs(best) or 1.0)) / 2
    start = step * math.floor((worst - step / 5) / step)
    end = best + 0.05 * (best - start) if spread > 0 else best + step / 5
    low, high = sorted((sign * start, sign * end))
    if min(map(min, curves)) >= 0:
        low = max(low, 0.0)
    if metric.unit == "%" and metric.higher_is_better and best <= 100:
        high = min(high, 100.2)
    return low, high
