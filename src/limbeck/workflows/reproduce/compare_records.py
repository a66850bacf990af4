"""The metrics of two records side by side: which match, exactly or within a tolerance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

__all__ = ["compare_records", "overall_match"]

MatchLevel = Literal["exact", "within_tolerance", "different"]
_GAIN_METRIC = "gain_points"
_SPLIT_PREFIXES = {"validation": "val", "test": "test"}
_AGREEMENT_METRICS = {"top1_agreement": "top1_agreement", "kl": "agreement_kl"}
_COST_KEYS = ("parameters", "flops", "bytes", "steps")


def compare_records(
    original: Mapping[str, Any], reproduced: Mapping[str, Any], *, tolerance: float
) -> list[dict[str, Any]]:
    """Every metric of both records that training decides: ``model``, ``metric``, ``original``, ``reproduced``,
    ``match``.

    Latency and seconds are left out, since they vary from run to run. A metric within ``tolerance`` differs by at
    most so much, in proportion where both are above 1 (NLL, KL); points count as fractions; counts match exactly or
    not at all. A metric that is missing in one of the records is different.

    >>> old, new = ({"models": {"a": {"test": {"metrics": {"accuracy": value}}}}} for value in (0.90, 0.91))
    >>> [(row["metric"], row["match"]) for row in compare_records(old, new, tolerance=0.02)]
    [('test/accuracy', 'within_tolerance')]
    """
    original_metrics, reproduced_metrics = dict(_iter_metrics(original)), dict(_iter_metrics(reproduced))
    return [
        {"model": metric_key[0], "metric": metric_key[1], "original": original_metrics.get(metric_key),
        "reproduced": reproduced_metrics.get(metric_key),
         "match": _match_level(original_metrics.get(metric_key), reproduced_metrics.get(metric_key), metric_key[1],
         tolerance)}
        for metric_key in dict.fromkeys([*original_metrics, *reproduced_metrics])
    ]  # fmt: skip


def overall_match(comparisons: Sequence[Mapping[str, Any]]) -> MatchLevel:
    """The worst match of all metrics; ``different`` where there is none.

    >>> overall_match([{"match": "exact"}, {"match": "within_tolerance"}]), overall_match([])
    ('within_tolerance', 'different')
    """
    levels = {comparison["match"] for comparison in comparisons}
    if "different" in levels or not levels:
        return "different"
    return "within_tolerance" if "within_tolerance" in levels else "exact"


def _iter_metrics(record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    for name, model in record["models"].items():
        for split, prefix in _SPLIT_PREFIXES.items():
            metrics = (model.get(split) or {}).get("metrics") or {}
            yield from (((name, f"{prefix}/{key}"), value) for key, value in metrics.items() if value is not None)
        yield from (((name, key), model[key]) for key in _COST_KEYS if model.get(key) is not None)
    gain = (record.get("verdict") or {}).get("gain_points")
    if gain is not None:
        yield ("distilled", _GAIN_METRIC), gain
    for key, metric in _AGREEMENT_METRICS.items():
        value = (record.get("agreement") or {}).get(key)
        if value is not None:
            yield ("distilled", metric), value


def _match_level(original: float | None, reproduced: float | None, metric: str, tolerance: float) -> MatchLevel:
    if original is None or reproduced is None:
        return "different"
    if original == reproduced:
        return "exact"
    if metric in _COST_KEYS:
        return "different"
    scale = 100.0 if metric == _GAIN_METRIC else max(1.0, min(abs(original), abs(reproduced)))
    return "within_tolerance" if abs(original - reproduced) <= tolerance * scale else "different"
