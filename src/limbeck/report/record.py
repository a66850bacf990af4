"""``record.json`` as typed objects, so that the page never meets a surprise; :mod:`limbeck.report.read` reads them.

Imported by the functions that need it, since pydantic is not needed to look at this room.
"""

# ruff: noqa: RUF012 - pydantic gives each object a default of its own

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, final

from pydantic import Field

from limbeck.core.roles import Role
from limbeck.report.schema_base import CoercedStr, OptionalFloat, OptionalInt, RecordSection
from limbeck.report.schema_fidelity import Fidelity
from limbeck.report.schema_provenance import (
    Command,
    DistributedInfo,
    NormalizationStats,
    ReproducedRun,
    SourceCode,
    TorchFlags,
    WeightsFile,
)
from limbeck.report.verdict import Outcome

__all__ = [
    "SCHEMA",
    "SCHEMA_MINOR",
    "Disagreement",
    "Latency",
    "MetricInfo",
    "ModelRecord",
    "Record",
    "ReliabilityBin",
    "SplitMetrics",
    "get_metric",
]

SCHEMA = 3
SCHEMA_MINOR = 0
"""Counted up with every key that joins; SCHEMA with every one that goes, or means something else."""


@final
class Latency(RecordSection):
    """Milliseconds for one call."""

    median: OptionalFloat = None
    p95: OptionalFloat = None
    batch_size: OptionalInt = None
    num_threads: OptionalInt = None
    num_repeats: OptionalInt = None


@final
class ClassAccuracy(RecordSection):
    """Accuracy within one class."""

    name: CoercedStr = Field(alias="class")
    accuracy: OptionalFloat = None
    num_samples: int = 0


@final
class ReliabilityBin(RecordSection):
    """One bin of the reliability diagram."""

    low: float
    high: float
    confidence: OptionalFloat = None
    accuracy: OptionalFloat = None
    num_samples: int = 0


@final
class MetricInfo(RecordSection):
    """What one metric means: its label, its unit (``%``: a fraction, shown as per cent), and which way is better."""

    label: CoercedStr
    unit: CoercedStr = ""
    higher_is_better: bool


@final
class SplitMetrics(RecordSection):
    """Metrics of a model on one split, by name as in ``metric_info``; all accuracies are fractions."""

    num_samples: int
    metrics: dict[str, OptionalFloat] = {}
    per_class: list[ClassAccuracy] = []
    reliability: list[ReliabilityBin] = []


@final
class Resources(RecordSection):
    """What the training took: seconds on the clock, of processors and of accelerators, and joules where told."""

    seconds: OptionalFloat = None
    cpu_seconds: OptionalFloat = None
    gpu_seconds: OptionalFloat = None
    joules: OptionalFloat = None


@final
class ModelRecord(RecordSection):
    """One model of the comparison."""

    role: Role
    title: CoercedStr = ""
    parameters: OptionalInt = None
    flops: OptionalFloat = None
    bytes: OptionalInt = None
    latency_ms: Latency | None = None
    steps: OptionalInt = None
    seconds: OptionalFloat = None
    resources: Resources | None = None
    backend: dict[str, Any] | None = None
    validation: SplitMetrics | None = None
    test: SplitMetrics | None = None


@final
class TeacherAgreement(RecordSection):
    """How often student and teacher say the same."""

    split: CoercedStr = "test"
    top1_agreement: OptionalFloat = None
    kl: OptionalFloat = None
    both_wrong: OptionalFloat = None
    student_only_wrong: OptionalFloat = None
    teacher_only_wrong: OptionalFloat = None


@final
class RecordedGain(RecordSection):
    """The distilled student's gain over another one."""

    text: str = ""
    outcome: Outcome = "unknown"
    gain_points: OptionalFloat = None
    interval_points: tuple[OptionalFloat, OptionalFloat] | None = None


@final
class Verdict(RecordSection):
    """What the run found out."""

    text: str = ""
    outcome: Outcome = "unknown"
    gain_points: OptionalFloat = None
    interval_points: tuple[OptionalFloat, OptionalFloat] | None = None
    gap_recovered: OptionalFloat = None
    statistical_test: CoercedStr = ""
    vs_no_assistants: RecordedGain | None = None


@final
class ExportedFile(RecordSection):
    """One exported file and its parity with the student it came from."""

    file: CoercedStr
    bytes: OptionalInt = None
    opset: OptionalInt = None
    max_abs_difference: OptionalFloat = None
    label_agreement: OptionalFloat = None
    num_samples: OptionalInt = None
    tolerance: OptionalFloat = None
    latency_ms: Latency | None = None


@final
class BasicMetrics(RecordSection):
    """Accuracy, NLL and calibration error on the validation split, by name as in ``metric_info``."""

    metrics: dict[str, OptionalFloat] = {}


@final
class ExtraModel(RecordSection):
    """What a run made beside its student, measured on the validation part: a peer, an early exit, an ensemble."""

    parameters: OptionalInt = None
    flops: OptionalFloat = None
    bytes: OptionalInt = None
    latency_ms: Latency | None = None
    validation: BasicMetrics = BasicMetrics()
    onnx: ExportedFile | None = None


@final
class Disagreement(RecordSection):
    """One sample where student and teacher differ."""

    index: int
    target: OptionalInt = None
    teacher: int
    student: int
    teacher_confidence: OptionalFloat = None
    student_confidence: OptionalFloat = None
    png: str | None = None


@final
class DataInfo(RecordSection):
    """What the models were trained and measured on."""

    name: CoercedStr = ""
    classes: list[CoercedStr] = []
    shape: list[int] = []
    num_train: OptionalInt = None
    num_labeled: OptionalInt = None
    num_val: OptionalInt = None
    num_test: OptionalInt = None
    fingerprint: CoercedStr = ""
    normalization: NormalizationStats | None = None


@final
class HeldOutAccess(RecordSection):
    """Whether the test part was opened."""

    num_reads: int = 0
    opened_at: str | None = None
    num_samples: OptionalInt = None


@final
class CacheStats(RecordSection):
    """The cache of one teacher's outputs: how many were computed (misses), and how many were read (hits)."""

    key: str | None = None
    folder: str | None = None
    num_outputs: OptionalInt = None
    num_views: OptionalInt = None
    misses: OptionalInt = None
    hits: OptionalInt = None
    repaired: OptionalInt = None
    bytes: OptionalInt = None
    is_complete: bool = False


@final
class VariantInfo(RecordSection):
    """The variant and the seed of one trial of a study."""

    study: CoercedStr
    name: CoercedStr
    seed: int


@final
class FileDigest(RecordSection):
    """A file of the run."""

    sha256: CoercedStr = ""
    bytes: OptionalInt = None


@final
class Record(RecordSection):
    """Everything a run wrote down."""

    schema_version: int = Field(alias="schema")
    schema_minor: int = 0
    limbeck: CoercedStr = ""
    name: CoercedStr
    kind: Literal["run", "trial"] = "run"
    variant: VariantInfo | None = None
    seed: OptionalInt = None
    created: CoercedStr = ""
    seconds: OptionalFloat = None
    recipe: dict[str, Any] = {}
    versions: dict[str, CoercedStr] = {}
    machine: dict[str, Any] = {}
    source: SourceCode = SourceCode()
    environment: str | None = None
    torch_flags: TorchFlags = TorchFlags()
    command: Command | None = None
    distributed: DistributedInfo = DistributedInfo()
    weights: dict[str, WeightsFile] = {}
    reproduces: ReproducedRun | None = None
    data: DataInfo = DataInfo()
    test_set: HeldOutAccess = HeldOutAccess()
    metric_info: dict[str, MetricInfo] = {}
    primary_metric: CoercedStr = ""
    models: dict[str, ModelRecord]
    agreement: TeacherAgreement | None = None
    fidelity: Fidelity | None = None
    verdict: Verdict | None = None
    export: dict[str, ExportedFile] = {}
    peers: dict[str, ExtraModel] = {}
    early_exits: dict[str, ExtraModel] = {}
    ensemble: ExtraModel | None = None
    disagreements: list[Disagreement] = []
    warnings: list[CoercedStr] = []
    cache: dict[str, CacheStats] = {}
    files: dict[str, FileDigest] = {}
    config_hash: str | None = None
    record_hash: str | None = None

    @property
    def split(self) -> Literal["test", "validation"]:
        """The part of the data that the page speaks of: test, where any model was measured on it."""
        return "test" if any(model.test for model in self.models.values()) else "validation"

    @property
    def distilled(self) -> ModelRecord:
        """The distilled student."""
        return next(model for model in self.models.values() if model.role == Role.DISTILLED)

    @property
    def baseline(self) -> ModelRecord | None:
        """The same student without a teacher."""
        return next((model for model in self.models.values() if model.role == Role.BASELINE), None)

    @property
    def teacher(self) -> ModelRecord | None:
        """The teacher to compare with: the one with the best primary metric where there are several."""
        info = self.metric_info.get(self.primary_metric)
        sign = 1 if info is None or info.higher_is_better else -1

        def score(model: ModelRecord) -> float:
            value = get_metric(self.get_metrics(model), self.primary_metric)
            return -math.inf if value is None else sign * value

        teachers = [model for model in self.models.values() if model.role == Role.TEACHER]
        return max(teachers, key=score, default=None)

    def get_metrics(self, model: ModelRecord | None) -> SplitMetrics | None:
        """The metrics of ``model`` on :attr:`split`."""
        return None if model is None else model.test if self.split == "test" else model.validation

    def ordered_models(self) -> Iterator[tuple[str, ModelRecord]]:
        """Names and models: teachers, assistants, the baselines, the distilled student."""
        for role in (Role.TEACHER, Role.ASSISTANT, Role.BASELINE, Role.NO_ASSISTANTS, Role.DISTILLED):
            yield from ((name, model) for name, model in self.models.items() if model.role == role)

    def display_name(self, name: str) -> str:
        """What a column or a mark is called: an assistant by its own name, and a teacher where there are several."""
        role = self.models[name].role
        has_several_teachers = sum(model.role == Role.TEACHER for model in self.models.values()) > 1
        if role == Role.ASSISTANT or (role == Role.TEACHER and has_several_teachers):
            return name
        labels = {Role.TEACHER: "Teacher", Role.BASELINE: "Baseline", Role.NO_ASSISTANTS: "No assistants"}
        return labels.get(role, "Distilled")

    def class_name(self, target: int | None) -> str:
        """The name of a class."""
        if target is None or target < 0:
            return "unlabeled"
        return self.data.classes[target] if target < len(self.data.classes) else str(target)


def get_metric(metrics: SplitMetrics | None, name: str) -> float | None:
    """One metric of a split that may be missing."""
    return metrics.metrics.get(name) if metrics else None
