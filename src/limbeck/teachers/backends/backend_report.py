"""What was found when an engine was chosen: kept in the record, and told in one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

__all__ = ["BackendReport"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BackendReport:
    """Which engine answers, and why.

    Attributes:
        requested: the engine that was asked for, ``auto`` too.
        backend: the one that answers.
        input_shape: the shape of the input on which all were measured.
        num_threads: how many threads each had.
        latency_ms: the median time of one answer, for each engine that was measured.
        max_difference: how far its answer was from eager's at most, as a share of the largest number there.
        skipped: why an engine was not measured.
        notes: what is worth knowing about one that was.

    >>> print(BackendReport(requested="auto", backend="fold_batchnorm", input_shape=(64, 3, 32, 32), num_threads=1,
    ...              latency_ms={"eager": 120.0, "fold_batchnorm": 60.0}, max_difference={"fold_batchnorm": 4e-7}))
    fold_batchnorm, 2.0 times eager's speed (60 ms for 64×3×32×32, 1 thread, difference 4e-07)
    """

    requested: str
    backend: str
    input_shape: tuple[int, ...] = ()
    num_threads: int = 1
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    max_difference: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def speedup(self) -> float | None:
        """How many times faster than eager it answers; ``None`` where nothing was measured."""
        eager_ms, backend_ms = self.latency_ms.get("eager"), self.latency_ms.get(self.backend)
        return eager_ms / backend_ms if eager_ms and backend_ms else None

    def __str__(self) -> str:
        if self.speedup is None:
            return self.backend
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        details = [f"{self.latency_ms[self.backend]:.3g} ms for {'×'.join(map(str, self.input_shape))}", threads]
        details += (
            [f"difference {self.max_difference[self.backend]:.0e}"] if self.backend in self.max_difference else []
        )
        faster = "" if self.backend == "eager" else f", {self.speedup:.1f} times eager's speed"
        remarks = [
            f"{name} {milliseconds:.3g} ms"
            for name, milliseconds in self.latency_ms.items()
            if name not in ("eager", self.backend)
        ]
        remarks += [f"{name}: {note}" for name, note in self.notes.items()]
        remarks += [f"not {name}: {reason}" for name, reason in self.skipped.items()]
        return "; ".join([f"{self.backend}{faster} ({', '.join(details)})", *remarks])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for the record."""
        return {
            "requested": self.requested, "backend": self.backend, "input_shape": list(self.input_shape), "num_threads": self.num_threads,
            "speedup": None if self.speedup is None else round(self.speedup, 3),
            "latency_ms": {name: round(milliseconds, 3) for name, milliseconds in self.latency_ms.items()},
            "max_difference": dict(self.max_difference), "skipped": dict(self.skipped), "notes": dict(self.notes),
        }  # fmt: skip
