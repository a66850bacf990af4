"""``record.json`` as typed objects, so that the page never meets a surprise; :mod:`limbeck.report.read` reads them.

Imported by the functions that need it, since pydantic is not needed to look at this room.
"""

# ruff: noqa: RUF012 - pydantic gives each object a default of its own

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, final

from pydantic import Field

from limbeck.report.schema_base import Count, Name, Number, Part
from limbeck.report.schema_fidelity import Fidelity
from limbeck.report.schema_provenance import Command, Flags, Processes, Repeats, Source, Spread, Weights

__all__ = ["MINOR", "SCHEMA", "Bin", "Disagreement", "Latency", "Model", "Quality", "Record", "figure"]

SCHEMA = 2
MINOR = 1
"""Counted up with every key that joins; SCHEMA with every one that goes, or means something else."""


@final
class Latency(Part):
    """Milliseconds for one call."""

    median: Number = None
    p95: Number = None
    batch: Count = None
    threads: Count = None
    repeats: Count = None


@final
class ClassFigure(Part):
    """Accuracy within one class."""

    name: Name = Field(alias="class")
    accuracy: Number = None
    examples: int = 0


@final
class Bin(Part):
    """One bin of the reliability diagram."""

    low: float
    high: float
    confidence: Number = None
    accuracy: Number = None
    examples: int = 0


@final
class Quality(Part):
    """How good a model is on one part of the data; all accuracies are fractions."""

    examples: int
    top1: Number = None
    top5: Number = None
    macro_f1: Number = None
    nll: Number = None
    ece: Number = None
    per_class: list[ClassFigure] = []
    reliability: list[Bin] = []


@final
class Spent(Part):
    """What the training took: seconds on the clock, of processors and of accelerators, and joules where told."""

    seconds: Number = None
    cpu_seconds: Number = None
    gpu_seconds: Number = None
    joules: Number = None


@final
class Model(Part):
    """One model of the comparison.

    The controls beside ``alone`` are ``longer``, alone for as much wall time as the distilled student took, and
    ``smoothed``, alone with label smoothing.
    """

    role: Literal["teacher", "assistant", "alone", "longer", "smoothed", "direct", "distilled"]
    title: Name = ""
    parameters: Count = None
    flops: Number = None
    bytes: Count = None
    latency_ms: Latency | None = None
    steps: Count = None
    seconds: Number = None
    spent: Spent | None = None
    engine: dict[str, Any] | None = None
    validation: Quality | None = None
    test: Quality | None = None


@final
class Agreement(Part):
    """How often student and teacher say the same."""

    on: Name = "test"
    top1: Number = None
    kl: Number = None
    both_wrong: Number = None
    student_only_wrong: Number = None
    teacher_only_wrong: Number = None


@final
class Gain(Part):
    """The distilled student's gain over another one."""

    sentence: str = ""
    gain_points: Number = None
    interval_points: tuple[Number, Number] | None = None


@final
class Verdict(Part):
    """What the run found out."""

    sentence: str = ""
    gain_points: Number = None
    interval_points: tuple[Number, Number] | None = None
    gap_recovered: Number = None
    test: Name = ""
    over_direct: Gain | None = None


@final
class Exported(Part):
    """One exported file and its parity with the student it came from."""

    file: Name
    bytes: Count = None
    opset: Count = None
    max_abs_difference: Number = None
    label_agreement: Number = None
    examples: Count = None
    tolerance: Number = None
    latency_ms: Latency | None = None


@final
class Judged(Part):
    """Accuracy, NLL and calibration on one part."""

    top1: Number = None
    nll: Number = None
    ece: Number = None


@final
class Companion(Part):
    """What a run made beside its student, measured on the validation part: a peer, an early exit, an ensemble."""

    parameters: Count = None
    flops: Number = None
    bytes: Count = None
    latency_ms: Latency | None = None
    validation: Judged = Judged()
    onnx: Exported | None = None


@final
class Disagreement(Part):
    """One sample where student and teacher differ."""

    index: int
    target: Count = None
    teacher: int
    student: int
    teacher_confidence: Number = None
    student_confidence: Number = None
    png: str | None = None


@final
class Data(Part):
    """What the models were trained and measured on."""

    name: Name = ""
    classes: list[Name] = []
    shape: list[int] = []
    train: Count = None
    labelled: Count = None
    validation: Count = None
    test: Count = None
    fingerprint: Name = ""
    normalization: Spread | None = None


@final
class Sealed(Part):
    """Whether the test part was opened."""

    reads: int = 0
    opened: str | None = None
    examples: Count = None


@final
class Kept(Part):
    """The cache of one teacher's answers: how many were asked for, and how many were read."""

    key: str | None = None
    folder: str | None = None
    answers: Count = None
    views: Count = None
    asked: Count = None
    read: Count = None
    mended: Count = None
    bytes: Count = None
    complete: bool = False


@final
class Arm(Part):
    """Which arm of which study a run was, with which seed."""

    study: Name
    arm: Name
    seed: int


@final
class File(Part):
    """A file of the run."""

    sha256: Name = ""
    bytes: Count = None


@final
class Record(Part):
    """Everything a run wrote down."""

    version: int = Field(alias="schema")
    minor: int = 0
    limbeck: Name = ""
    name: Name
    kind: Literal["run", "arm"] = "run"
    arm: Arm | None = None
    seed: Count = None
    created: Name = ""
    seconds: Number = None
    recipe: dict[str, Any] = {}
    versions: dict[str, Name] = {}
    machine: dict[str, Any] = {}
    source: Source = Source()
    environment: str | None = None
    flags: Flags = Flags()
    command: Command | None = None
    processes: Processes = Processes()
    weights: dict[str, Weights] = {}
    repeats: Repeats | None = None
    data: Data = Data()
    sealed_test: Sealed = Sealed()
    models: dict[str, Model]
    agreement: Agreement | None = None
    fidelity: Fidelity | None = None
    verdict: Verdict | None = None
    export: dict[str, Exported] = {}
    peers: dict[str, Companion] = {}
    exits: dict[str, Companion] = {}
    ensemble: Companion | None = None
    disagreements: list[Disagreement] = []
    warnings: list[Name] = []
    cache: dict[str, Kept] = {}
    files: dict[str, File] = {}
    identity: str | None = None
    hash: str | None = None

    @property
    def part(self) -> Literal["test", "validation"]:
        """The part of the data that the page speaks of: test, where any model was measured on it."""
        return "test" if any(model.test for model in self.models.values()) else "validation"

    @property
    def distilled(self) -> Model:
        """The student that was taught."""
        return next(model for model in self.models.values() if model.role == "distilled")

    @property
    def alone(self) -> Model | None:
        """The control: the same student without a teacher."""
        return next((model for model in self.models.values() if model.role == "alone"), None)

    @property
    def teacher(self) -> Model | None:
        """The teacher to compare with: the most accurate one where there are several."""
        teachers = [model for model in self.models.values() if model.role == "teacher"]
        return max(teachers, key=lambda model: figure(self.quality(model), "top1") or 0.0, default=None)

    def quality(self, model: Model | None) -> Quality | None:
        """The figures of ``model`` on :attr:`part`."""
        return None if model is None else model.test if self.part == "test" else model.validation

    def ordered(self) -> Iterator[tuple[str, Model]]:
        """Names and models: teachers, assistants, the controls, the distilled student."""
        for role in ("teacher", "assistant", "alone", "direct", "distilled"):
            yield from ((name, model) for name, model in self.models.items() if model.role == role)

    def short(self, name: str) -> str:
        """What a column or a mark is called: an assistant by its own name, and a teacher where there are several."""
        role = self.models[name].role
        several = sum(model.role == "teacher" for model in self.models.values()) > 1
        if role == "assistant" or (role == "teacher" and several):
            return name
        return {"teacher": "Teacher", "alone": "Alone", "direct": "Direct"}.get(role, "Distilled")

    def label(self, target: int | None) -> str:
        """The name of a class."""
        if target is None or target < 0:
            return "unlabelled"
        return self.data.classes[target] if target < len(self.data.classes) else str(target)


def figure(quality: Quality | None, name: str) -> float | None:
    """One figure of a quality that may be missing."""
    value: float | None = getattr(quality, name, None)
    return value
