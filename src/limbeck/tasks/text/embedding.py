"""Sentence embeddings: a text is a vector, near to those of texts of its class, or of its translations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs
from limbeck.core.task import Example, ModelInputs, Scores
from limbeck.data.module import DataModule
from limbeck.losses._ops import IGNORE_INDEX, hard_labels
from limbeck.tasks.text.embedding_metrics import METRICS, R1, RetrievalMetrics
from limbeck.tasks.text.embedding_report import embedding_examples
from limbeck.tasks.text.retrieval import (
    Relevant,
    pack_statistics,
    require_candidates,
    retrieval_values,
    unpack_statistics,
)
from limbeck.tasks.text.tokens import join_tokens
from limbeck.utils.batch_fields import get_sample_ids, get_target
from limbeck.utils.class_target import check_class_target
from limbeck.utils.logits import find_logits

__all__ = ["SentenceEmbedding"]

_INPUTS = ("input_ids", "attention_mask")
_SOURCE = tuple(f"source_{name}" for name in _INPUTS)


@final
@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """A vector for each text, by which it retrieves others.

    A batch is a mapping with ``input_ids`` and ``attention_mask`` ``[batch, tokens]`` (1 for tokens, 0 for padding), as
    a tokenizer of transformers returns them, and the class of each text under ``target`` or ``label(s)``, −100 for
    none. A network is called as ``network(input_ids=…, attention_mask=…)`` and returns embeddings ``[batch, width]``,
    which must not depend on padding.

    With ``relevant: translation``, classes are languages, and texts of one ``meaning`` ``[batch, 1]`` are translations
    of each other. A training batch may have ``source_input_ids`` and ``source_attention_mask``: the teachers read this
    text in place of the other, and the student reads both (``embedding``, and ``source_embedding`` by sample), as in
    Reimers & Gurevych, EMNLP 2020, https://arxiv.org/abs/2004.09813. Student and teachers have one tokenizer.

    Args:
        classes: number of classes.
        relevant: which texts a text has to retrieve: those of its ``class``, or its ``translation`` into each other
            language.
        candidates: number of random texts among which R@1 is measured; see :mod:`limbeck.tasks.text.retrieval`.
        vocabulary: the tokens by id, to show texts in reports; that of the data.
    """

    classes: int
    relevant: Relevant = "class"
    candidates: int = field(default=1000, repr=False)
    vocabulary: tuple[str, ...] = field(default=(), repr=False)
    primary_metric: ClassVar[MetricSpec] = R1
    monitored_metrics: ClassVar[tuple[MetricSpec, ...]] = (R1,)
    metric_specs: ClassVar[tuple[MetricSpec, ...]] = METRICS
    supervised_loss: ClassVar[str] = "SupConLoss"
    pipeline_tag: ClassVar[str] = "sentence-similarity"
    max_resamples: ClassVar[int] = 500
    input_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {
        "input_ids": {0: "batch", 1: "tokens"},
        "attention_mask": {0: "batch", 1: "tokens"},
    }
    output_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {"sentence_embedding": {0: "batch"}}
    output_description: ClassVar[str] = (
        "sentence_embedding [batch, width] of length 1; the cosine is the product of two"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))
        require_candidates(self.candidates)
        if self.classes < 1:
            raise LimbeckError(f"classes must be at least 1, got {self.classes}")
        if self.relevant not in ("class", "translation"):
            raise LimbeckError(f"relevant must be class or translation, got {self.relevant!r}")
        if self.relevant == "translation" and self.classes < 2:
            raise LimbeckError(f"translations need at least 2 languages, got {self.classes}")

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """The embedding of each text, and where the batch has a source, ``source_embedding``."""
        inputs = self.model_inputs(batch).kwargs
        embedding = _embed(network, inputs)
        if _SOURCE[0] not in batch:
            return Outputs(embedding=embedding)
        source = _embed(network, dict(zip(_INPUTS, (batch[name] for name in _SOURCE), strict=True)))
        return Outputs(embedding=embedding, by_sample={"source_embedding": source})

    def target(self, batch: Any) -> Tensor | None:
        """``[batch]``, equal for texts that are relevant to each other; −100 for no target."""
        labels = self._classes(batch)
        if labels is None or self.relevant == "class":
            return labels
        if "meaning" not in batch:
            raise LimbeckError("translations need the field meaning in a batch: use MultilingualSentences")
        meaning: Tensor = batch["meaning"]
        return meaning.reshape(len(labels)).masked_fill(labels < 0, IGNORE_INDEX)

    def input_mask(self, batch: Any) -> Tensor:
        """Which tokens are not padding, ``[batch, tokens]``."""
        mask: Tensor = self.model_inputs(batch).kwargs["attention_mask"]
        return mask.bool()

    def prepare_batch(
        self, student: nn.Module, batch: Any, query_teachers: Callable[[Any], Mapping[str, Outputs]]
    ) -> tuple[Any, Any]:
        """The batch for the student, and the one for the teachers, which has the source as its text."""
        if _SOURCE[0] not in batch:
            return batch, batch
        teacher_batch = {name: value for name, value in batch.items() if name not in _SOURCE}
        return batch, teacher_batch | {name: batch[f"source_{name}"] for name in _INPUTS}

    def check_data(self, network: nn.Module, data: Any) -> None:
        """Refuse data with more tokens than ``network`` has (its ``vocab_size``)."""
        available, needed = getattr(network, "vocab_size", None), 0
        if isinstance(data, DataModule):
            needed = int(data.facts.get("vocab_size", 0))
        if isinstance(available, int) and available < needed:
            raise LimbeckError(
                f"{type(network).__name__} must have an embedding for each of the {needed:,} tokens of the data, got "
                f"{available:,}: set its vocab_size, or the tokenizer of the data to that of the network"
            )

    def monitor(self, network: nn.Module, batch: Any) -> Tensor:
        """The statistics of :meth:`score`."""
        return self._statistics(self.outputs(network, batch), batch)

    def score(self, network: nn.Module, batch: Any) -> Scores:
        """Embeddings of length 1; the statistics are target, class, sample id and embedding."""
        outputs = self.outputs(network, batch)
        assert outputs.embedding is not None
        statistics = self._statistics(outputs, batch)
        is_labeled = ~statistics[:, 0].isnan()
        texts = [text for text, keep in zip(self._texts(batch), is_labeled.tolist(), strict=False) if keep]
        predictions = F.normalize(outputs.embedding.detach().float().cpu(), dim=1)
        return Scores(statistics, list(predictions), (statistics[is_labeled], texts))

    def metric_value(
        self, statistics: Tensor, weights: Tensor | None = None, *, metric: MetricSpec | None = None
    ) -> Tensor:
        """R@1 among random candidates, the mean over queries that have a relevant text; NaN without any."""
        texts = unpack_statistics(statistics)
        values = retrieval_values(texts, weights, relevant=self.relevant, candidates=self.candidates)
        drawn = torch.ones_like(values) if weights is None else weights.double()
        drawn = drawn.masked_fill(values.isnan(), 0.0)
        means = (values.nan_to_num() * drawn).sum(dim=1) / drawn.sum(dim=1)
        return means[0] if weights is None else means

    def metrics(self) -> RetrievalMetrics:
        """R@1 among random candidates and among all texts, average precision, the embedding map and nearest texts."""
        return RetrievalMetrics(self.classes, self.relevant, self.candidates)

    def model_inputs(self, batch: Any) -> ModelInputs:
        """``input_ids`` and ``attention_mask``, by keyword."""
        missing = [name for name in _INPUTS if not isinstance(batch, Mapping) or name not in batch]
        if missing:
            got = sorted(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
            raise LimbeckError(f"a batch must be a mapping with input_ids and attention_mask, got {got}")
        return ModelInputs((), {name: batch[name] for name in _INPUTS})

    def encode_outputs(self, outputs: Outputs, batch: Any) -> Mapping[str, Tensor]:
        """The embedding."""
        assert outputs.embedding is not None
        return {"embedding": outputs.embedding}

    def decode_outputs(self, stored: Mapping[str, Tensor], batch: Any) -> Outputs:
        """The embedding."""
        return Outputs(embedding=stored["embedding"])

    def examples(self, batch: Any, scores: Mapping[str, Scores], facts: Mapping[str, Any]) -> list[Example]:
        """Texts with the nearest of the other texts of the batch, by each network."""
        count = len(batch["input_ids"])
        unlabeled = torch.full((count,), IGNORE_INDEX)
        target, labels = self.target(batch), self._classes(batch)
        texts = self._texts(batch) or join_tokens(batch, facts.get("vocabulary"))
        names = facts.get("class_names") or [str(index) for index in range(self.classes)]
        return embedding_examples(
            texts, unlabeled if target is None else target, unlabeled if labels is None else labels,
            get_sample_ids(batch, count), scores, names,
        )  # fmt: skip

    def deployment_model(self, network: nn.Module, data: Any) -> nn.Module:
        """The network on ``input_ids`` and ``attention_mask``, with embeddings of length 1."""
        return TextEmbedder(network)

    def _classes(self, batch: Any) -> Tensor | None:
        """The class of each text, ``[batch]``; −100 for none."""
        target: Tensor | None = get_target(batch)
        check_class_target(target, self.classes)
        return None if target is None else hard_labels(target)

    def _statistics(self, outputs: Outputs, batch: Any) -> Tensor:
        assert outputs.embedding is not None
        count = len(outputs.embedding)
        target, labels = self.target(batch), self._classes(batch)
        if target is None or labels is None:
            target = labels = torch.full((count,), IGNORE_INDEX)
        return pack_statistics(outputs.embedding, target, labels, get_sample_ids(batch, count))

    def _texts(self, batch: Any) -> list[str]:
        """The texts, where they are known."""
        return join_tokens(batch, self.vocabulary) if self.vocabulary else []


@final
class TextEmbedder(nn.Module):
    """A text network that takes its two inputs in order and returns embeddings of length 1.

    Args:
        network: called as ``network(input_ids=…, attention_mask=…)``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return F.normalize(_embed(self.network, {"input_ids": input_ids, "attention_mask": attention_mask}), dim=1)


def _embed(network: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """The embeddings ``[batch, width]`` of ``network``."""
    output = network(**inputs)
    embedding = find_logits(output)
    if embedding is None or embedding.ndim != 2 or len(embedding) != len(inputs["input_ids"]):
        shape = type(output).__name__ if embedding is None else list(embedding.shape)
        raise LimbeckError(
            f"{type(network).__name__} must return embeddings [{len(inputs['input_ids'])}, width], got {shape}: pool "
            "its tokens, as sentence_transformer and sentence_encoder do"
        )
    return embedding
