"""The protocols of tasks. A task defines what a batch means, what is measured, cached, shown and exported.

A training loop of your own needs a :class:`Task`. ``limbeck.fit``, ``study`` and ``compare`` need an
:class:`EvaluableTask`, a cache, a report and an export a :class:`DeployableTask`. What a task lacks is an error where
it is needed, before training. A task is a frozen dataclass, since its ``repr`` is part of the key of a cache; a setting
of validation and test only is a ``field(repr=False)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast, final, runtime_checkable

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs

__all__ = [
    "DeployableTask",
    "EvaluableTask",
    "Example",
    "Metrics",
    "ModelInputs",
    "Panel",
    "Scores",
    "Task",
    "reduce_statistics",
    "require_deployable",
    "require_evaluable",
]  # fmt: skip


class Scores(NamedTuple):
    """One network's predictions for one batch, and what each sample adds to the primary metric.

    Attributes:
        statistics: ``[batch, k]`` float64, what each sample adds to the primary metric (correct or not; intersections
            and unions by class; errors and length). A row of NaN is a sample without a target; it counts nowhere.
        predictions: one prediction for each sample: a class, a mask, boxes, a sentence.
        metric_args: arguments of ``metrics().update`` for this batch; samples without a target are left out.
        logits: ``[batch, classes]`` of a task with one row for each sample, for agreement and calibration; else
            ``None``.
    """

    statistics: Tensor
    predictions: Sequence[Any]
    metric_args: tuple[Any, ...] = ()
    logits: Tensor | None = None


class ModelInputs(NamedTuple):
    """How a network is called: ``network(*args, **kwargs)``.

    Attributes:
        masks: of ``kwargs`` whose padding is not that of ``attention_mask`` or ``input_length`` of the batch:
            ``[batch, positions]`` booleans by name, false in the padding. A cache of teacher outputs finds by them
            whether an input is the same in a batch with another padding.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = {}
    masks: Mapping[str, Tensor] = {}


class Panel(NamedTuple):
    """A text, an image or both, for the report.

    Attributes:
        text: a class name, a transcript.
        image: PNG bytes, or empty.
        correct: whether a prediction is correct; ``None`` where that is no yes or no.
    """

    text: str = ""
    image: bytes = b""
    correct: bool | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sample for the report: its input, its target, and the prediction of each network by name."""

    sample_id: int
    input: Panel
    target: Panel
    predictions: Mapping[str, Panel] = field(default_factory=dict)


class Metrics(Protocol):
    """Metrics over a split, batch by batch, as ``torchmetrics.MetricCollection``."""

    def update(self, *args: Any) -> None:
        """Add a batch."""

    def compute(self) -> Mapping[str, Any]:
        """A number for each of ``metric_specs``; ``per_class``, the primary metric of each class (NaN: none), and
        ``class_num_samples``; other plain data goes into the record as it is.
        """


class Task(Protocol):
    """How a network is called on a batch, what its rows are, and what the target is.

    Optional methods, looked up by name:

    - ``sample_targets(batch) -> Mapping[str, Tensor]``: targets that are not by row, ``[batch, ...]`` (padded token
      sequences and their lengths, boxes), for :attr:`LossContext.sample_targets`.
    - ``input_mask(batch) -> Tensor | None``: ``[batch, positions]`` booleans, false in the padding of sequences, which
      losses on features leave out.
    - ``prepare_batch(student, batch, query_teachers) -> (student's batch, teachers' batch)``: changes a training batch
      by the student itself (adversarial images, generated text). ``query_teachers(batch)`` returns their outputs.
    - ``has_sigmoid_classes(outputs) -> bool``: whether each class of these logits has a sigmoid of its own, as in dense
      detectors. Losses and ensembles with a softmax over classes are refused then.
    - ``check_data(network, data)``: refuses data that ``network`` cannot be trained on, before training.
    """

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """Outputs of ``network`` for ``batch``, flattened into rows; the caller adds features.

        The rows depend on the batch and the settings of the task, not on the network, so student and teacher have the
        same ones. (Those of a detector are its anchors: losses on logits refuse networks with other anchors.) A network
        that is trained may be called with further arguments than ``model_inputs``, such as its targets.
        """

    def target(self, batch: Any) -> Tensor | None:
        """The target by row, or ``None`` where the batch has none or the target is not by row."""


@runtime_checkable
class EvaluableTask(Task, Protocol):
    """A task with metrics: what ``fit``, ``study`` and ``compare`` need.

    Attributes:
        primary_metric: the metric of verdicts; its value is ``metric_value`` of the ``statistics`` of :meth:`score`, so
            value, interval and paired test agree.
        monitored_metrics: validated after each epoch, as ``val/NAME``. The first selects the epoch (``keep: best``,
            ``patience``), the last is for ``ReduceLROnPlateau``.
        metric_specs: every metric of the record, in the order of tables; the primary one among them.
        supervised_loss: registered name of the loss on the target that trains baselines, such as ``CrossEntropyLoss``.

    An optional attribute ``pipeline_tag`` is the task on the Hugging Face Hub, for model cards: ``image-segmentation``;
    an optional ``max_resamples`` limits the resamples of intervals, of a metric that takes long.
    """

    @property
    def primary_metric(self) -> MetricSpec: ...
    @property
    def monitored_metrics(self) -> tuple[MetricSpec, ...]: ...
    @property
    def metric_specs(self) -> tuple[MetricSpec, ...]: ...
    @property
    def supervised_loss(self) -> str: ...

    def monitor(self, network: nn.Module, batch: Any) -> Tensor:
        """``[batch, k]`` float64 for ``monitored_metrics``; a row of NaN is a sample without a target.

        Called in eval mode without gradients, as :meth:`score`.
        """

    def score(self, network: nn.Module, batch: Any) -> Scores:
        """Predictions and statistics for a validation or test batch.

        A task may average several passes (sliding windows, scales, flips), but not for a network whose attribute
        ``is_deployed`` is true, which runs once on the whole input, as on the device.
        """

    def metric_value(
        self, statistics: Tensor, weights: Tensor | None = None, *, metric: MetricSpec | None = None
    ) -> Tensor:
        """The metric of samples with these statistics.

        Args:
            statistics: ``[n, k]`` without rows of NaN, from :meth:`score` or, for a monitored metric, :meth:`monitor`.
            weights: ``[resamples, n]``, how often each resample holds each sample; ``None``: each sample once.
            metric: which one; ``None``: the primary.

        Returns:
            A float64 scalar, or ``[resamples]``. :func:`reduce_statistics` computes any function of sums.
        """

    def metrics(self) -> Metrics:
        """New metrics, for those of ``metric_specs`` that are not the primary one."""


@runtime_checkable
class DeployableTask(EvaluableTask, Protocol):
    """A task whose outputs are cached, shown in reports and exported.

    Attributes:
        input_axes: names of the inputs of the deployed network in their order, with the axes of variable size:
            ``{"input": {0: "batch"}}``.
        output_axes: the same of its outputs: ``{"logits": {0: "batch"}}``.

    An optional attribute ``output_description`` says what these outputs are, in the metadata of the exported file. An
    optional ``compared_outputs`` names those that an exported file must give value by value; where others depend on the
    order of nearly equal numbers, 99 % of the predictions must agree instead.
    """

    @property
    def input_axes(self) -> Mapping[str, Mapping[int, str]]: ...
    @property
    def output_axes(self) -> Mapping[str, Mapping[int, str]]: ...

    def model_inputs(self, batch: Any) -> ModelInputs:
        """How :meth:`outputs` calls a network on ``batch``; for FLOPs, latency, inference backends and export."""

    def encode_outputs(self, outputs: Outputs, batch: Any) -> Mapping[str, Tensor]:
        """What a cache stores of a teacher's outputs: ``[batch, ...]`` tensors by name.

        They do not depend on targets, so whole maps, not rows selected by a target. Where samples differ in their
        number of rows, tensors are padded along axis 1, and ``length`` ``[batch]`` is how many are valid.
        """

    def decode_outputs(self, stored: Mapping[str, Tensor], batch: Any) -> Outputs:
        """The outputs again, with the rows of this batch."""

    def examples(self, batch: Any, scores: Mapping[str, Scores], facts: Mapping[str, Any]) -> Sequence[Example]:
        """The samples of ``batch`` for the report, one :class:`Example` each.

        Args:
            batch: as the split holds it, before normalization: images in 0..1.
            scores: of each network by name, for the same samples.
            facts: what the data declares, such as ``class_names``.
        """

    def deployment_model(self, network: nn.Module, data: Any) -> nn.Module:
        """The network as it is deployed: takes inputs before normalization and returns plain tensors by the names of
        ``output_axes`` (one tensor, or a tuple in their order).

        Args:
            network: the trained network.
            data: the data module, for its normalization.
        """


def require_evaluable(task: object, purpose: str) -> EvaluableTask:
    """``task`` if it is an :class:`EvaluableTask`; else an error that names what it lacks.

    >>> require_evaluable(object(), "limbeck study")
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: limbeck study needs a task with metrics, and object has no metric_specs, \
metric_value, metrics, monitor, monitored_metrics, primary_metric, score, supervised_loss: see docs/add-a-task.md
    """
    return cast(EvaluableTask, _require(task, EvaluableTask, _EVALUABLE, f"{purpose} needs a task with metrics"))


def require_deployable(task: object, purpose: str) -> DeployableTask:
    """``task`` if it is a :class:`DeployableTask`; else an error that names what it lacks."""
    return cast(DeployableTask, _require(task, DeployableTask, _DEPLOYABLE, f"{purpose} needs a deployable task"))


def _require(task: object, protocol: Any, names: Sequence[str], need: str) -> Any:
    if isinstance(task, protocol):
        return task
    missing = ", ".join(name for name in names if not hasattr(task, name))
    raise LimbeckError(f"{need}, and {type(task).__name__} has no {missing}: see docs/add-a-task.md")


def reduce_statistics(statistics: Tensor, weights: Tensor | None, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """A metric that is a function of sums over samples.

    Args:
        statistics: ``[n, k]``.
        weights: ``[resamples, n]`` or ``None``, see :meth:`EvaluableTask.metric_value`.
        fn: maps sums ``[..., k]`` to ``[...]``.

    >>> import torch
    >>> errors = torch.tensor([[1.0, 4.0], [0.0, 6.0]])  # errors and length of two clips
    >>> error_rate = lambda sums: sums[..., 0] / sums[..., 1]
    >>> reduce_statistics(errors, None, error_rate)
    tensor(0.1000, dtype=torch.float64)
    >>> reduce_statistics(errors, torch.tensor([[2, 0], [1, 1]]), error_rate)
    tensor([0.2500, 0.1000], dtype=torch.float64)
    """
    statistics = statistics.double()
    return fn(statistics.sum(dim=0)) if weights is None else fn(weights.double() @ statistics)


_EVALUABLE = sorted(
    ("primary_metric", "monitored_metrics", "metric_specs", "supervised_loss", "monitor", "score", "metric_value",
     "metrics")
)  # fmt: skip
_DEPLOYABLE = sorted(
    (*_EVALUABLE, "input_axes", "output_axes", "model_inputs", "encode_outputs", "decode_outputs", "examples",
     "deployment_model")
)  # fmt: skip
