"""What was found when an engine was chosen: kept in the record, and told in one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

__all__ = ["Report"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Which engine answers, and why.

    Attributes:
        asked: the engine that was asked for, ``auto`` too.
        engine: the one that answers.
        batch: the shape of the input on which all were measured.
        threads: how many threads each had.
        milliseconds: the median time of one answer, for each engine that was measured.
        difference: how far its answer was from eager's at most, as a share of the largest number there.
        left_out: why an engine was not measured.
        notes: what is worth knowing about one that was.

    >>> print(Report(asked="auto", engine="folded", batch=(64, 3, 32, 32), threads=1,
    ...              milliseconds={"eager": 120.0, "folded": 60.0}, difference={"folded": 4e-7}))
    folded, 2.0 times eager's speed (60 ms for 64×3×32×32, 1 thread, difference 4e-07)
    """

    asked: str
    engine: str
    batch: tuple[int, ...] = ()
    threads: int = 1
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    difference: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def speedup(self) -> float | None:
        """How many times faster than eager it answers; ``None`` where nothing was measured."""
        eager, own = self.milliseconds.get("eager"), self.milliseconds.get(self.engine)
        return eager / own if eager and own else None

    def __str__(self) -> str:
        if self.speedup is None:
            return self.engine
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        about = [f"{self.milliseconds[self.engine]:.3g} ms for {'×'.join(map(str, self.batch))}", threads]
        about += [f"difference {self.difference[self.engine]:.0e}"] if self.engine in self.difference else []
        faster = "" if self.engine == "eager" else f", {self.speedup:.1f} times eager's speed"
        others = [
            f"{name} {took:.3g} ms" for name, took in self.milliseconds.items() if name not in ("eager", self.engine)
        ]
        others += [f"{name}: {note}" for name, note in self.notes.items()]
        others += [f"not {name}: {why}" for name, why in self.left_out.items()]
        return "; ".join([f"{self.engine}{faster} ({', '.join(about)})", *others])

    def plain(self) -> dict[str, Any]:
        """Everything as plain data, for the record."""
        return {
            "asked": self.asked, "engine": self.engine, "batch": list(self.batch), "threads": self.threads,
            "speedup": None if self.speedup is None else round(self.speedup, 3),
            "milliseconds": {name: round(took, 3) for name, took in self.milliseconds.items()},
            "difference": dict(self.difference), "left_out": dict(self.left_out), "notes": dict(self.notes),
        }  # fmt: skip
