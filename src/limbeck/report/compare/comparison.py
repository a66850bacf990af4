"""The results of a comparison as plain data for the page and the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from limbeck.core.roles import Role
from limbeck.report.latency import LatencyInterval
from limbeck.report.metrics_csv import TrainingCurve
from limbeck.report.task_metrics import TaskMetrics
from limbeck.report.verdict import Outcome


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds with its 95 % interval, if there are several seeds."""

    mean: float
    low: float | None = None
    high: float | None = None
    num_seeds: int = 1

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class PairedGain:
    """How much better a variant is than its baseline by the primary metric, paired by seed, in its unit of differences.

    Attributes:
        mean: over the shared seeds.
        low: lower end of the 95 % bootstrap interval over seeds; ``None`` for a single seed.
        high: its upper end.
        t_low: lower end of the 95 % interval by Student's t.
        t_high: its upper end.
        sample_interval: 95 % interval of a paired bootstrap over test samples.
        num_seeds: number of shared seeds.
        p_value: of the paired test over seeds.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    t_low: float | None = None
    t_high: float | None = None
    sample_interval: tuple[float, float] | None = None
    num_seeds: int = 1
    p_value: float | None = None

    @property
    def resampled_unit(self) -> Literal["seeds", "samples"]:
        """What the bootstrap of :attr:`interval` resamples."""
        return "seeds" if self._seed_interval() else "samples"

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval that decides the verdict: over seeds the wider one at each end, else over test samples."""
        return self._seed_interval() or self.sample_interval

    def _seed_interval(self) -> tuple[float, float] | None:
        lows, highs = (
            [end for end in ends if end is not None] for ends in ((self.low, self.t_low), (self.high, self.t_high))
        )
        return (min(lows), max(highs)) if self.num_seeds > 1 and lows and highs else None


@dataclass(frozen=True)
class GapRecovered:
    """The fraction of the gap between baseline and teacher that is recovered, with its interval where there is one."""

    fraction: float
    low: float | None = None
    high: float | None = None
    num_seeds: int = 1

    @property
    def mean(self) -> float:
        """The value of its cell in a table."""
        return self.fraction

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class ClassChange:
    """The gain in one class over the baseline (mean over seeds), and its number of samples."""

    name: str
    gain: float
    num_samples: int


@dataclass(frozen=True)
class TrainingCost:
    """Cost of one training, the mean over seeds."""

    seconds: float | None = None
    cpu_seconds: float | None = None
    gpu_seconds: float | None = None
    joules: float | None = None


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """One variant over its seeds; the latency is that of its architecture, over all variants, and size is in bytes.

    ``metrics`` are by name, in their own scale. ``baseline`` is the variant it is compared with; ``None`` where it is
    the baseline itself, or where there is none.
    """

    name: str
    role: Role
    title: str = ""
    note: str = ""
    baseline: str | None = None
    metrics: Mapping[str, SeedMean] = field(default_factory=dict)
    gain: PairedGain | None = None
    gap_recovered: GapRecovered | None = None
    outcome: Outcome = "unknown"
    verdict_text: str = ""
    seeds_needed: int | None = None
    parameters: int | None = None
    flops: float | None = None
    bytes: int | None = None
    latency: LatencyInterval | None = None
    steps: int | None = None
    resources: TrainingCost = TrainingCost()
    class_changes: tuple[ClassChange, ...] = ()
    curves: tuple[TrainingCurve, ...] = ()

    @property
    def latency_ms(self) -> float | None:
        """The median of :attr:`latency`."""
        return self.latency.median if self.latency else None

    @property
    def significant_gap(self) -> float | None:
        """The fraction of the gap recovered; ``None`` without a significant gain or loss, of which none is stated."""
        return self.gap_recovered.fraction if self.gap_recovered and self.outcome in ("improves", "degrades") else None

    @property
    def is_student(self) -> bool:
        """Whether the variant trains the student, so that it has a verdict."""
        return Role(self.role).is_student

    @property
    def verdict(self) -> str:
        """The verdict in a sentence; empty for a teacher and for the baseline."""
        return self.verdict_text if self.is_student and self.baseline else ""


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """State and progress of the training of one variant with one seed; ``value`` is the primary metric."""

    variant: str
    seed: int | None
    folder: str
    state: Literal["waiting", "running", "done", "failed"]
    error: str = ""
    value: float | None = None
    num_reads: int | None = None
    step: int | None = None


@dataclass(frozen=True)
class AgreementMatrix:
    """Fraction of the samples on which two variants predict the same class, mean over seeds; ``None`` where unknown.

    ``matrix[i][j]`` compares ``names[i]`` with ``names[j]``; the diagonal compares two seeds of one variant.
    """

    names: tuple[str, ...]
    matrix: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Variants compared on the same data.

    Attributes:
        title: what was compared.
        kind: ``study``, with results from its ``study.json``, or ``runs``.
        task_metrics: the metrics of all variants.
        baselines: one, or one for each recipe; empty where there is none.
        details: names and values of data and machine.
    """

    title: str
    kind: Literal["study", "runs"]
    task_metrics: TaskMetrics
    variants: tuple[VariantResult, ...]
    trials: tuple[TrialStatus, ...]
    baselines: tuple[str, ...] = ()
    split: Literal["test", "validation"] = "test"
    num_samples: int | None = None
    rule: str = ""
    agreement: AgreementMatrix | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    limbeck: str = ""
    created: str = ""
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_reads(self) -> int:
        """Reads of the test set over all runs; the models of one folder share one read."""
        return sum({trial.folder: trial.num_reads or 0 for trial in self.trials}.values())

    @property
    def states(self) -> Counter[str]:
        """Number of trials by state."""
        return Counter(trial.state for trial in self.trials)

    def count_seeds(self, variant: str) -> int:
        """Number of finished trials of a variant."""
        return sum(trial.variant == variant and trial.state == "done" for trial in self.trials)
