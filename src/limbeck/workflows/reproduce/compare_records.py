"""The figures of two records, one beside the other: which agree, exactly or within a tolerance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

__all__ = ["overall_match", "compare_records"]

MatchLevel = Literal["exactly", "within", "not"]
_METRIC_KEYS = ("top1", "top5", "macro_f1", "nll", "ece")
_GAIN_METRIC = "gain in points"
_COST_KEYS = ("parameters", "flops", "bytes", "steps")


def compare_records(
    original: Mapping[str, Any], reproduced: Mapping[str, Any], *, tolerance: float
) -> list[dict[str, Any]]:
    """Every figure of both records that training decides: ``model``, ``figure``, ``before``, ``now``, ``agrees``.

    Latency and seconds are left out, since a machine has its moods. A figure within ``tolerance`` differs by at most so
    much, in proportion where both are above 1 (NLL, KL); points count as fractions; counts agree exactly or not at all.
    A figure that is missing in one of the records does not agree.

    >>> old, new = ({"models": {"a": {"test": {"top1": share}}}} for share in (0.90, 0.91))
    >>> [(one["figure"], one["agrees"]) for one in compare_records(old, new, tolerance=0.02)]
    [('test top1', 'within')]
    """
    original_metrics, reproduced_metrics = dict(_iter_metrics(original)), dict(_iter_metrics(reproduced))
    return [
        {"model": metric_key[0], "figure": metric_key[1], "before": original_metrics.get(metric_key), "now": reproduced_metrics.get(metric_key),
         "agrees": _match_level(original_metrics.get(metric_key), reproduced_metrics.get(metric_key), metric_key[1], tolerance)}
        for metric_key in dict.fromkeys([*original_metrics, *reproduced_metrics])
    ]  # fmt: skip


def overall_match(comparisons: Sequence[Mapping[str, Any]]) -> MatchLevel:
    """What all figures together say: as the worst of them; ``not`` where there is none.

    >>> overall_match([{"agrees": "exactly"}, {"agrees": "within"}]), overall_match([])
    ('within', 'not')
    """
    levels = {comparison["agrees"] for comparison in comparisons}
    return "not" if "not" in levels or not levels else "within" if "within" in levels else "exactly"


def _iter_metrics(record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    for name, model in record["models"].items():
        for split in ("validation", "test"):
            metrics = model.get(split) or {}
            yield from (
                ((name, f"{split} {key}"), metrics[key]) for key in _METRIC_KEYS if metrics.get(key) is not None
            )
        yield from (((name, key), model[key]) for key in _COST_KEYS if model.get(key) is not None)
    gain = (record.get("verdict") or {}).get("gain_points")
    if gain is not None:
        yield ("distilled", _GAIN_METRIC), gain
    for key in ("top1", "kl"):
        value = (record.get("agreement") or {}).get(key)
        if value is not None:
            yield ("distilled", f"agreement {key}"), value


def _match_level(original: float | None, reproduced: float | None, metric: str, tolerance: float) -> MatchLevel:
    if original is None or reproduced is None:
        return "not"
    if original == reproduced:
        return "exactly"
    if metric in _COST_KEYS:
        return "not"
    scale = 100.0 if metric == _GAIN_METRIC else max(1.0, min(abs(original), abs(reproduced)))
    return "within" if abs(original - reproduced) <= tolerance * scale else "not"
