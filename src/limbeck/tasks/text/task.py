"""Text classification: a row is a text with one class."""

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
from limbeck.evaluation.class_metrics import MACRO_F1, NLL, class_counts
from limbeck.losses._ops import IGNORE_INDEX, hard_labels
from limbeck.losses.temperature import CLASSIFICATION, Range
from limbeck.tasks.text.metrics import METRICS, TextMetrics, macro_f1
from limbeck.tasks.text.report import text_examples
from limbeck.tasks.text.tokens import join_tokens
from limbeck.utils.batch_fields import get_sample_ids, get_target
from limbeck.utils.class_target import check_class_target
from limbeck.utils.logits import find_logits

__all__ = ["TextClassification"]


@final
@dataclass(frozen=True, slots=True)
class TextClassification:
    """One class for each text.

    A batch is a mapping with ``input_ids`` and ``attention_mask`` ``[batch, tokens]`` (1 for tokens, 0 for padding), as
    a tokenizer of transformers returns them, and the target under ``target`` or ``label(s)``. A network is called as
    ``network(input_ids=…, attention_mask=…)`` and returns logits ``[batch, classes]``, as a tensor, in ``.logits``,
    ``["logits"]`` or the first of a tuple. Its logits must not depend on padding. Targets are class indices, −100 for
    no label, or probabilities ``[batch, classes]``, all zero for no label.

    Args:
        classes: number of classes.
    """

    classes: int
    temperatures: ClassVar[Range] = CLASSIFICATION
    primary_metric: ClassVar[MetricSpec] = MACRO_F1
    monitored_metrics: ClassVar[tuple[MetricSpec, ...]] = (MACRO_F1, NLL)
    metric_specs: ClassVar[tuple[MetricSpec, ...]] = METRICS
    supervised_loss: ClassVar[str] = "CrossEntropyLoss"
    pipeline_tag: ClassVar[str] = "text-classification"
    input_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {
        "input_ids": {0: "batch", 1: "tokens"},
        "attention_mask": {0: "batch", 1: "tokens"},
    }
    output_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {"logits": {0: "batch"}}

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise LimbeckError(f"classes must be at least 2, got {self.classes}")

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """Outputs of ``network`` for ``batch``, one row per text."""
        inputs = self.model_inputs(batch).kwargs
        output = network(**inputs)
        logits, expected = find_logits(output), [len(inputs["input_ids"]), self.classes]
        if logits is None or list(logits.shape) != expected:
            shape = type(output).__name__ if logits is None else list(logits.shape)
            raise LimbeckError(
                f"logits of {type(network).__name__} must be {expected}, got {shape}; give the network a head of "
                f"{self.classes} classes, or set the task's classes"
            )
        return Outputs(logits=logits)

    def target(self, batch: Any) -> Tensor | None:
        """Class indices or probabilities, or ``None`` for a batch without a target."""
        target: Tensor | None = get_target(batch)
        check_class_target(target, self.classes)
        return target

    def input_mask(self, batch: Any) -> Tensor:
        """Which tokens are not padding, ``[batch, tokens]``."""
        mask: Tensor = self.model_inputs(batch).kwargs["attention_mask"]
        return mask.bool()

    def monitor(self, network: nn.Module, batch: Any) -> Tensor:
        """``[batch, 3·classes + 2]``: counts by class, negative log-likelihood, 1."""
        logits = self.outputs(network, batch).require_logits()
        labels = self._labels(batch, len(logits))
        counts = class_counts(logits.argmax(dim=1).cpu(), labels, classes=self.classes)
        losses = F.cross_entropy(logits.float().cpu(), labels, ignore_index=IGNORE_INDEX, reduction="none").double()
        ones = torch.ones_like(losses)
        columns = torch.stack([losses, ones], dim=1).masked_fill((labels < 0)[:, None], torch.nan)
        return torch.cat([counts, columns], dim=1)

    def score(self, network: nn.Module, batch: Any) -> Scores:
        """Predicted classes; the statistics are true positives, predictions and targets of each class."""
        logits = self.outputs(network, batch).require_logits().float().cpu()
        labels, predicted = self._labels(batch, len(logits)), logits.argmax(dim=1)
        statistics = class_counts(predicted, labels, classes=self.classes)
        return Scores(statistics, predicted.tolist(), (logits, labels), logits)

    def metric_value(
        self, statistics: Tensor, weights: Tensor | None = None, *, metric: MetricSpec | None = None
    ) -> Tensor:
        """Macro F1 over the classes in the targets or predictions of these samples, or from :meth:`monitor` NLL."""
        if metric == NLL:
            return reduce_statistics(statistics[:, -2:], weights, lambda sums: sums[..., 0] / sums[..., 1])
        return reduce_statistics(statistics[:, : 3 * self.classes], weights, macro_f1)

    def metrics(self) -> TextMetrics:
        """Macro F1, accuracy, NLL, calibration error, and the F1 of each class."""
        return TextMetrics(self.classes)

    def model_inputs(self, batch: Any) -> ModelInputs:
        """``input_ids`` and ``attention_mask``, by keyword."""
        missing = [name for name in self.input_axes if not isinstance(batch, Mapping) or name not in batch]
        if missing:
            got = sorted(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
            raise LimbeckError(f"a batch must be a mapping with input_ids and attention_mask, got {got}")
        return ModelInputs((), {name: batch[name] for name in self.input_axes})

    def encode_outputs(self, outputs: Outputs, batch: Any) -> Mapping[str, Tensor]:
        """The logits."""
        return {"logits": outputs.require_logits()}

    def decode_outputs(self, stored: Mapping[str, Tensor], batch: Any) -> Outputs:
        """The logits."""
        return Outputs(logits=stored["logits"])

    def examples(self, batch: Any, scores: Mapping[str, Scores], facts: Mapping[str, Any]) -> list[Example]:
        """Texts with the class names of the target and of each prediction.

        The text of a sample is ``text`` of the batch, else the words of ``facts["vocabulary"]``.
        """
        target = self.target(batch)
        texts = batch["text"] if "text" in batch else join_tokens(batch, facts.get("vocabulary"))
        names = facts.get("class_names") or [str(index) for index in range(self.classes)]
        labels = None if target is None else hard_labels(target)
        return text_examples(texts, labels, get_sample_ids(batch, len(texts)), scores, names)

    def deployment_model(self, network: nn.Module, data: Any) -> nn.Module:
        """The network on ``input_ids`` and ``attention_mask``, with its logits as a tensor."""
        return TokenClassifier(network)

    def _labels(self, batch: Any, num_samples: int) -> Tensor:
        """``[batch]`` class indices on the CPU, −100 for no target."""
        target = self.target(batch)
        return torch.full((num_samples,), IGNORE_INDEX) if target is None else hard_labels(target).cpu().long()


@final
class TokenClassifier(nn.Module):
    """A text network that takes its two inputs in order and returns its logits.

    Args:
        network: called as ``network(input_ids=…, attention_mask=…)``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits = find_logits(self.network(input_ids=input_ids, attention_mask=attention_mask))
        if logits is None:
            raise LimbeckError(f"{type(self.network).__name__} must return logits")
        return logits
