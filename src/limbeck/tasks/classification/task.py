"""Classification: a row is a sample (an image, a vector, an audio clip) with one class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs
from limbeck.core.task import Example, ModelInputs, Scores, reduce_statistics
from limbeck.data.normalization import NormalizedModel
from limbeck.evaluation.class_metrics import NLL
from limbeck.losses._ops import IGNORE_INDEX, hard_labels
from limbeck.losses.temperature import CLASSIFICATION, Range
from limbeck.tasks.classification.metrics import ACCURACY, METRICS, ClassificationMetrics
from limbeck.tasks.classification.report import classification_examples
from limbeck.utils.batch_fields import get_input, get_sample_ids, get_target
from limbeck.utils.class_target import check_class_target
from limbeck.utils.logits import find_logits

__all__ = ["Classification"]


@final
@dataclass(frozen=True, slots=True)
class Classification:
    """One class for each sample.

    A batch is ``(input, target)``, or a mapping that has the input under ``input``, ``x``, ``image(s)`` or
    ``pixel_values`` and the target under ``target``, ``y`` or ``label(s)``. The network is called with the input and
    returns logits ``[batch, classes]``, as a tensor, the first of a tuple, or in ``.logits`` or ``["logits"]``.
    Targets are class indices, −100 for no label, or probabilities ``[batch, classes]``, all zero for no label.

    Args:
        classes: number of classes.
    """

    classes: int
    temperatures: ClassVar[Range] = CLASSIFICATION
    primary_metric: ClassVar[MetricSpec] = ACCURACY
    monitored_metrics: ClassVar[tuple[MetricSpec, ...]] = (ACCURACY, NLL)
    metric_specs: ClassVar[tuple[MetricSpec, ...]] = METRICS
    supervised_loss: ClassVar[str] = "CrossEntropyLoss"
    pipeline_tag: ClassVar[str] = "image-classification"
    input_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {"input": {0: "batch"}}
    output_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {"logits": {0: "batch"}}

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise LimbeckError(f"classes must be at least 2, got {self.classes}")

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """Outputs of ``network`` for ``batch``, one row per sample."""
        output = network(get_input(batch))
        logits = find_logits(output)
        if logits is None:
            raise LimbeckError(f"{type(network).__name__} must return logits, got a {type(output).__name__}")
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise LimbeckError(
                f"logits of {type(network).__name__} must be [batch, {self.classes}], got {list(logits.shape)}; give "
                f"the network a head of {self.classes} classes, or set the task's classes"
            )
        return Outputs(logits=logits)

    def target(self, batch: Any) -> Tensor | None:
        """Class indices or probabilities, or ``None`` for a batch without a target."""
        target: Tensor | None = get_target(batch)
        check_class_target(target, self.classes)
        return target

    def monitor(self, network: nn.Module, batch: Any) -> Tensor:
        """``[batch, 2]``: whether a sample is correct, and its negative log-likelihood."""
        logits = self.outputs(network, batch).require_logits()
        labels = self._labels(batch, logits)
        losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="none")
        return _mask_unlabeled(torch.stack([logits.argmax(dim=1) == labels, losses], dim=1).cpu().double(), labels)

    def score(self, network: nn.Module, batch: Any) -> Scores:
        """Predicted classes; the statistic is 1 for a correct one and 0 for a wrong one."""
        logits = self.outputs(network, batch).require_logits()
        labels, predicted = self._labels(batch, logits).cpu(), logits.argmax(dim=1).cpu()
        logits = logits.float().cpu()
        statistics = _mask_unlabeled((predicted == labels)[:, None].double(), labels)
        return Scores(statistics, predicted.tolist(), (logits, labels), logits)

    def metric_value(
        self, statistics: Tensor, weights: Tensor | None = None, *, metric: MetricSpec | None = None
    ) -> Tensor:
        """The mean of the statistic of ``metric``: accuracy, or from :meth:`monitor` NLL."""
        column = statistics[:, 1 if metric == NLL else 0]
        pairs = torch.stack([column, torch.ones_like(column)], dim=1)
        return reduce_statistics(pairs, weights, lambda sums: sums[..., 0] / sums[..., 1])

    def metrics(self) -> ClassificationMetrics:
        """Accuracy, top-5 accuracy, macro F1, NLL, calibration error, and the accuracy of each class."""
        return ClassificationMetrics(self.classes)

    def model_inputs(self, batch: Any) -> ModelInputs:
        """The input."""
        return ModelInputs((get_input(batch),))

    def encode_outputs(self, outputs: Outputs, batch: Any) -> Mapping[str, Tensor]:
        """The logits."""
        return {"logits": outputs.require_logits()}

    def decode_outputs(self, stored: Mapping[str, Tensor], batch: Any) -> Outputs:
        """The logits."""
        return Outputs(logits=stored["logits"])

    def examples(self, batch: Any, scores: Mapping[str, Scores], facts: Mapping[str, Any]) -> list[Example]:
        """Images with the class names of the target and of each prediction."""
        pixels, target = get_input(batch), self.target(batch)
        sample_ids = get_sample_ids(batch, len(pixels))
        names = facts.get("class_names") or [str(index) for index in range(self.classes)]
        return classification_examples(pixels, target, sample_ids, scores, names)

    def deployment_model(self, network: nn.Module, data: Any) -> nn.Module:
        """The network with the normalization of the data: takes pixels in 0..1."""
        return NormalizedModel(network, data.normalization, num_dims=len(data.input_shape))

    def _labels(self, batch: Any, logits: Tensor) -> Tensor:
        target = self.target(batch)
        if target is None:
            return torch.full((len(logits),), IGNORE_INDEX, device=logits.device)
        return hard_labels(target)


def _mask_unlabeled(statistics: Tensor, labels: Tensor) -> Tensor:
    return statistics.masked_fill((labels.cpu() < 0)[:, None], torch.nan)
