"""The figures of two records, one beside the other: which agree, exactly or within a tolerance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

__all__ = ["agree", "compared"]

Agreement = Literal["exactly", "within", "not"]
_QUALITY = ("top1", "top5", "macro_f1", "nll", "ece")
_GAIN = "gain in points"
_COST = ("parameters", "flops", "bytes", "steps")


def compared(before: Mapping[str, Any], now: Mapping[str, Any], *, tolerance: float) -> list[dict[str, Any]]:
    """Every figure of both records that training decides: ``model``, ``figure``, ``before``, ``now``, ``agrees``.

    Latency and seconds are left out, since a machine has its moods. A figure within ``tolerance`` differs by at most so
    much, in proportion where both are above 1 (NLL, KL); points count as fractions; counts agree exactly or not at all.
    A figure that is missing in one of the records does not agree.

    >>> old, new = ({"models": {"a": {"test": {"top1": share}}}} for share in (0.90, 0.91))
    >>> [(one["figure"], one["agrees"]) for one in compared(old, new, tolerance=0.02)]
    [('test top1', 'within')]
    """
    mine, theirs = dict(_figures(before)), dict(_figures(now))
    return [
        {"model": place[0], "figure": place[1], "before": mine.get(place), "now": theirs.get(place),
         "agrees": _agrees(mine.get(place), theirs.get(place), place[1], tolerance)}
        for place in dict.fromkeys([*mine, *theirs])
    ]  # fmt: skip


def agree(figures: Sequence[Mapping[str, Any]]) -> Agreement:
    """What all figures together say: as the worst of them; ``not`` where there is none.

    >>> agree([{"agrees": "exactly"}, {"agrees": "within"}]), agree([])
    ('within', 'not')
    """
    said = {one["agrees"] for one in figures}
    return "not" if "not" in said or not said else "within" if "within" in said else "exactly"


def _figures(record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    for name, model in record["models"].items():
        for part in ("validation", "test"):
            quality = model.get(part) or {}
            yield from (((name, f"{part} {key}"), quality[key]) for key in _QUALITY if quality.get(key) is not None)
        yield from (((name, key), model[key]) for key in _COST if model.get(key) is not None)
    gain = (record.get("verdict") or {}).get("gain_points")
    if gain is not None:
        yield ("distilled", _GAIN), gain
    for key in ("top1", "kl"):
        share = (record.get("agreement") or {}).get(key)
        if share is not None:
            yield ("distilled", f"agreement {key}"), share


def _agrees(before: float | None, now: float | None, figure: str, tolerance: float) -> Agreement:
    if before is None or now is None:
        return "not"
    if before == now:
        return "exactly"
    if figure in _COST:
        return "not"
    scale = 100.0 if figure == _GAIN else max(1.0, min(abs(before), abs(now)))
    return "within" if abs(before - now) <= tolerance * scale else "not"
