"""The sections of ``record.json`` as pydantic models, see :mod:`limbeck.report.record`."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from limbeck.core.roles import Role
from limbeck.report.verdict import Outcome

_NAN_TO_NONE = BeforeValidator(lambda value: value if not isinstance(value, float) or math.isfinite(value) else None)
OptionalFloat = Annotated[float | None, _NAN_TO_NONE]
OptionalInt = Annotated[int | None, _NAN_TO_NONE]
CoercedStr = Annotated[str, BeforeValidator(str)]


class RecordSection(BaseModel):
    """A mapping of the record. Reading ignores unknown keys, since a newer minor version may have more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Latency(RecordSection):
    """Milliseconds per call; ``low`` and ``high`` are the 95 % interval of the median."""

    median: OptionalFloat = None
    low: OptionalFloat = None
    high: OptionalFloat = None
    p95: OptionalFloat = None
    batch_size: OptionalInt = None
    num_threads: OptionalInt = None
    num_repeats: OptionalInt = None


class ClassMetric(RecordSection):
    """The primary metric of one class."""

    name: CoercedStr = Field(alias="class")
    value: OptionalFloat = None
    num_samples: int = 0


class ReliabilityBin(RecordSection):
    """One bin of the reliability diagram: mean confidence, and the fraction of correct predictions."""

    low: float
    high: float
    confidence: OptionalFloat = None
    fraction_correct: OptionalFloat = None
    num_samples: int = 0


class MetricInfo(RecordSection):
    """Label, unit and direction of one metric, see :class:`limbeck.core.metric_spec.MetricSpec`."""

    label: CoercedStr
    unit: CoercedStr = ""
    higher_is_better: bool
    scale: OptionalFloat = None
    min_gap: float = 0.005
    digits: int = 1
    phrase: str = ""
    description: str = ""


class SplitMetrics(RecordSection):
    """Metrics of a model on one split, by their names in ``metric_info``."""

    num_samples: int = 0
    metrics: dict[str, OptionalFloat] = {}
    interval: dict[str, tuple[OptionalFloat, OptionalFloat]] = {}
    per_class: list[ClassMetric] = []
    reliability: list[ReliabilityBin] = []
    details: dict[str, Any] = {}


class Resources(RecordSection):
    """Cost of a training: wall, CPU and GPU seconds, and joules where the machine reports them."""

    seconds: OptionalFloat = None
    cpu_seconds: OptionalFloat = None
    gpu_seconds: OptionalFloat = None
    joules: OptionalFloat = None


class ModelRecord(RecordSection):
    """One model of the run; ``architecture`` is a hash of its structure, without the weights."""

    role: Role
    title: CoercedStr = ""
    architecture: str | None = None
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


class Agreement(RecordSection):
    """Predictions of a student compared with the teacher's, as fractions of the samples of a split."""

    split: CoercedStr = "test"
    prediction_agreement: OptionalFloat = None
    kl: OptionalFloat = None
    both_wrong: OptionalFloat = None
    student_only_wrong: OptionalFloat = None
    teacher_only_wrong: OptionalFloat = None


class RecordedGain(RecordSection):
    """The gain of the distilled student over another one in ``unit``, above zero if it is better, with its verdict."""

    text: str = ""
    outcome: Outcome = "unknown"
    metric: CoercedStr = ""
    unit: CoercedStr = "points"
    gain: OptionalFloat = None
    interval: tuple[OptionalFloat, OptionalFloat] | None = None


class Verdict(RecordedGain):
    """The gain over the baseline, and the fraction of the gap to the teacher that it recovers."""

    gap_recovered: OptionalFloat = None
    statistical_test: CoercedStr = ""
    vs_no_assistants: RecordedGain | None = None


class ExportedFile(RecordSection):
    """One exported file and its parity with the student; ``image_agreement`` is on ``num_images`` image files, prepared
    as the file's metadata say.
    """

    file: CoercedStr
    bytes: OptionalInt = None
    opset: OptionalInt = None
    max_abs_difference: OptionalFloat = None
    label_agreement: OptionalFloat = None
    num_samples: OptionalInt = None
    tolerance: OptionalFloat = None
    latency_ms: Latency | None = None
    num_images: OptionalInt = None
    image_agreement: OptionalFloat = None


class ExtraModel(RecordSection):
    """A peer, an early exit or an ensemble of the run, measured on the validation split."""

    parameters: OptionalInt = None
    flops: OptionalFloat = None
    bytes: OptionalInt = None
    latency_ms: Latency | None = None
    validation: SplitMetrics = SplitMetrics()
    onnx: ExportedFile | None = None


class ClassErrors(RecordSection):
    """Numbers of wrong predictions in one class, by which of student and teacher is wrong."""

    name: CoercedStr = Field(alias="class")
    num_samples: int = 0
    same_error: int = 0
    different_error: int = 0
    student_only_wrong: int = 0
    teacher_only_wrong: int = 0


class LayerCKA(RecordSection):
    """Unbiased linear CKA: a row for each layer of the student, a column for each layer of the teacher."""

    student_layers: list[CoercedStr] = []
    teacher_layers: list[CoercedStr] = []
    matrix: list[list[OptionalFloat]] = []
    num_samples: OptionalInt = None


class StudentFidelity(Agreement):
    """One student compared with the teacher."""

    num_samples: OptionalInt = None
    same_error: OptionalFloat = None
    per_class: list[ClassErrors] = []
    cka: LayerCKA | None = None

    @property
    def different_error(self) -> float | None:
        """The fraction on which both are wrong with different predictions."""
        return None if self.both_wrong is None or self.same_error is None else self.both_wrong - self.same_error


class Fidelity(RecordSection):
    """Each student compared with one teacher."""

    split: CoercedStr = "validation"
    teacher: CoercedStr
    students: dict[str, StudentFidelity] = {}


class SourceCode(RecordSection):
    """Git commit of limbeck, and whether files differed from it; null where unknown."""

    commit: str | None = None
    dirty: bool | None = None


class TorchFlags(RecordSection):
    """Flags of torch and environment variables that change results."""

    deterministic_algorithms: bool | None = None
    cudnn_deterministic: bool | None = None
    cudnn_benchmark: bool | None = None
    matmul_precision: CoercedStr = ""
    default_dtype: CoercedStr = ""
    num_interop_threads: OptionalInt = None
    environment_variables: dict[str, CoercedStr] = {}


class Command(RecordSection):
    """The recipe's name or file, and the overrides of the command line."""

    recipe: str | None = None
    overrides: list[CoercedStr] = []


class DistributedInfo(RecordSection):
    """Number of processes and batch sizes."""

    world_size: int = 1
    strategy: CoercedStr = "single_device"
    batch_size_per_process: OptionalInt = None
    global_batch_size: OptionalInt = None


class NormalizationStats(RecordSection):
    """Mean and standard deviation of each channel, for inputs from 0 to 1."""

    mean: list[OptionalFloat] = []
    std: list[OptionalFloat] = []


class ReproducedRun(RecordSection):
    """The run that this one reproduces, and how often its test set had been read before."""

    name: CoercedStr
    record_hash: str | None = None
    config_hash: str | None = None
    num_reads: int = 0


class PanelRecord(RecordSection):
    """A text, an image as base64 PNG, or both; ``correct`` of a prediction is null where that is not binary."""

    text: str = ""
    png: str | None = None
    correct: bool | None = None


class ExampleRecord(RecordSection):
    """One test sample with its input, its target and the prediction of each model; a training sample has none."""

    sample_id: int
    input: PanelRecord
    target: PanelRecord
    predictions: dict[str, PanelRecord] = {}


class TaskInfo(RecordSection):
    """The task of the run: the loss that trains its baselines, its task on the Hugging Face Hub, and the metrics
    ``val/NAME`` of ``metrics.csv``.
    """

    name: CoercedStr = ""
    settings: CoercedStr = ""
    supervised_loss: CoercedStr = ""
    pipeline_tag: CoercedStr = ""
    monitored_metrics: dict[str, MetricInfo] = {}


class DataInfo(RecordSection):
    """The data set of the run."""

    name: CoercedStr = ""
    classes: list[CoercedStr] = []
    shape: list[int] = []
    num_train: OptionalInt = None
    num_labeled: OptionalInt = None
    num_val: OptionalInt = None
    num_test: OptionalInt = None
    fingerprint: CoercedStr = ""
    normalization: NormalizationStats | None = None
    preprocessing: dict[str, Any] | None = None
    facts: dict[str, Any] = {}


class HeldOutAccess(RecordSection):
    """Reads of the test set."""

    num_reads: int = 0
    opened_at: str | None = None
    num_samples: OptionalInt = None


class CacheStats(RecordSection):
    """The cache of one teacher's outputs: computed (misses) and read (hits)."""

    key: str | None = None
    folder: str | None = None
    num_outputs: OptionalInt = None
    num_views: OptionalInt = None
    misses: OptionalInt = None
    hits: OptionalInt = None
    repaired: OptionalInt = None
    bytes: OptionalInt = None
    is_complete: bool = False


class VariantInfo(RecordSection):
    """The variant and the seed of one trial of a study."""

    study: CoercedStr
    name: CoercedStr
    seed: int


class FileDigest(RecordSection):
    """Size and digest of a file."""

    sha256: CoercedStr = ""
    bytes: OptionalInt = None
