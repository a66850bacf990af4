"""Translation: a row is a token to be predicted from the source and the target tokens before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs
from limbeck.core.task import Example, ModelInputs, Scores, reduce_statistics
from limbeck.data.module import DataModule
from limbeck.data.subwords import join_pieces
from limbeck.losses.temperature import Range
from limbeck.models.beam_search import PADDING
from limbeck.tasks.translation import codec, rows
from limbeck.tasks.translation.decoding import MAX_SENTENCES, translate
from limbeck.tasks.translation.deploy import ForcedDecoder
from limbeck.tasks.translation.hypotheses import (
    decode_sentences,
    encode_source,
    merge_hypotheses,
    search_hypotheses,
)
from limbeck.tasks.translation.metrics import (
    BLEU,
    BLEU_COLUMNS,
    CHRF,
    METRICS,
    NLL,
    NUM_STATISTICS,
    TranslationMetrics,
    bleu,
    chrf,
    count_matches,
)
from limbeck.tasks.translation.report import translation_examples
from limbeck.teachers.cache.cache_checks import select_samples
from limbeck.utils.batch_fields import get_sample_ids

__all__ = ["Translation"]

_TOKENS: Final = Range(default=1.0, low=1.0, high=4.0)
"""A distribution over thousands of tokens is flat enough: word-level distillation uses no temperature."""


@final
@dataclass(frozen=True, slots=True)
class Translation:
    """Sentences of a target language for those of a source language.

    A batch is a mapping with ``input_ids`` and ``attention_mask`` ``[batch, source tokens]``, ``target`` (or
    ``labels``) ``[batch, target tokens]`` with the end token and −100 in padding, and optionally ``pair`` ``[batch]``,
    the language pair of each sample, and ``reference``, the UTF-8 bytes of the translation. A network is called as
    ``network(input_ids=…, attention_mask=…, decoder_input_ids=…)``, where the last are the target tokens shifted to the
    right, and returns logits ``[batch, target tokens, vocabulary]``.

    A sample without a target, or with ``target_length`` below 0, has no rows. With ``hypothesis_beams``, teachers
    translate the source of each training sample, and the tokens of their translations are further rows, of which
    ``by_row["is_hypothesis"]`` is true: for sequence-level distillation, and for samples without a target.

    Args:
        vocab_size: size of the vocabulary.
        decoder_start_token_id: token before the first target token.
        eos_token_id: token that ends a target.
        hypothesis_beams: beams of the translations of teachers in training; 0: none.
        max_tokens: the longest translation.
        length_penalty: above 0 for longer translations, see :func:`~limbeck.models.beam_search.beam_search`.
        num_beams: beams in validation and test.
        primary: the metric of verdicts, ``bleu`` or ``chrf``.
        tokenize: tokenizer of sacreBLEU for BLEU; ``char`` for languages without spaces.
        target_prefix_ids: by language pair, the first token of a target where it is a language; empty: none.
        vocabulary: the text of each token, for metrics and reports.
        class_names: names of the language pairs, a fact of the data, for the metric of each.
    """

    vocab_size: int
    decoder_start_token_id: int = 1
    eos_token_id: int = 0
    hypothesis_beams: int = 0
    max_tokens: int = 64
    length_penalty: float = 1.0
    target_prefix_ids: Sequence[int] = ()
    num_beams: int = field(default=4, repr=False)
    primary: Literal["bleu", "chrf"] = field(default="bleu", repr=False)
    tokenize: str = field(default="13a", repr=False)
    vocabulary: Sequence[str] = field(default=(), repr=False, compare=False)
    class_names: Sequence[str] = field(default=(), repr=False, compare=False)
    temperatures: ClassVar[Range] = _TOKENS
    monitored_metrics: ClassVar[tuple[MetricSpec, ...]] = (NLL,)
    metric_specs: ClassVar[tuple[MetricSpec, ...]] = METRICS
    supervised_loss: ClassVar[str] = "CrossEntropyLoss"
    pipeline_tag: ClassVar[str] = "translation"
    output_description: ClassVar[str] = "logits of the token after each of decoder_input_ids"
    input_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {
        "input_ids": {0: "batch", 1: "source_tokens"},
        "attention_mask": {0: "batch", 1: "source_tokens"},
        "decoder_input_ids": {0: "batch", 1: "target_tokens"},
    }
    output_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {"logits": {0: "batch", 1: "target_tokens"}}

    def __post_init__(self) -> None:
        ids = (self.decoder_start_token_id, self.eos_token_id)
        if self.vocab_size < 2 or not all(0 <= index < self.vocab_size for index in ids):
            raise LimbeckError(
                "vocab_size must be at least 2, and decoder_start_token_id and eos_token_id in 0..vocab_size − 1, got "
                f"{self.vocab_size}, {ids[0]} and {ids[1]}"
            )
        if self.hypothesis_beams < 0 or self.max_tokens < 1 or self.num_beams < 1 or self.length_penalty < 0:
            raise LimbeckError(
                "hypothesis_beams and length_penalty must be at least 0, max_tokens and num_beams at least 1, got "
                f"{self.hypothesis_beams}, {self.length_penalty}, {self.max_tokens} and {self.num_beams}"
            )
        if self.primary not in ("bleu", "chrf"):
            raise LimbeckError(f"primary must be bleu or chrf, got {self.primary!r}")

    @property
    def primary_metric(self) -> MetricSpec:
        """BLEU or chrF++."""
        return BLEU if self.primary == "bleu" else CHRF

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """One row per token; ``by_row`` has the ``token``, its ``pair``, and whether it is of a teacher's translation.

        Without gradients, ``by_sample`` has the logits of each sample, and for a batch with ``view``, as training has,
        the translations of the network where ``hypothesis_beams`` is set. A network with ``pairs`` runs on the samples
        of these language pairs; the others are not ``valid``.
        """
        target, hypothesis = rows.get_target(batch), rows.find_hypothesis(batch)
        if torch.is_grad_enabled() and hypothesis is not None:
            return rows.join_rows(self._student_rows(network, batch, target, hypothesis), batch, by_sample={})
        covered = rows.covered_samples(network, batch)
        if covered is None:
            by_sample = self._logits_by_sample(network, batch)
        else:
            by_sample = self._covered_logits(network, batch, covered)
        logits = rows.select_rows(by_sample[rows.LOGITS], target, hypothesis)
        by_sample = {} if torch.is_grad_enabled() else by_sample
        return rows.join_rows(logits, batch, by_sample=by_sample, valid=covered)

    def target(self, batch: Any) -> Tensor:
        """The tokens by row; −100 for those of a teacher's translation."""
        target, hypothesis = rows.get_target(batch), rows.find_hypothesis(batch)
        tokens = target.tokens[target.is_row]
        if len(tokens) and tokens.is_cpu and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise LimbeckError(
                f"target tokens must be in 0..{self.vocab_size - 1}, or −100 in padding, got {int(tokens.min())} to "
                f"{int(tokens.max())}"
            )
        return tokens if hypothesis is None else F.pad(tokens, (0, int(hypothesis.is_row.sum())), value=-100)

    def sample_targets(self, batch: Any) -> Mapping[str, Tensor]:
        """The language ``pair`` ``[batch]``, where the batch has it."""
        return {"pair": batch["pair"].reshape(-1)} if "pair" in batch else {}

    def input_mask(self, batch: Any) -> Tensor:
        """Which source tokens are not padding, ``[batch, source tokens]``."""
        mask: Tensor = batch["attention_mask"]
        return mask.bool()

    def prepare_batch(
        self, student: nn.Module, batch: Any, query_teachers: Callable[[Any], Mapping[str, Outputs]]
    ) -> tuple[Any, Any]:
        """The samples of the student's language pairs, with the translations of their teachers."""
        covered = rows.covered_samples(student, batch)
        if covered is not None and not bool(covered.all()):
            batch = select_samples(batch, covered.cpu().numpy())
        if self.hypothesis_beams:
            batch = {"view": torch.zeros_like(batch["input_ids"][:, 0]), **batch}
            outputs = query_teachers(batch)
            batch = merge_hypotheses(batch, outputs) if outputs else batch
        return batch, batch

    def check_data(self, network: nn.Module, data: Any) -> None:
        """Refuse translations longer than ``network`` can give."""
        if not isinstance(data, DataModule):
            return
        limit = getattr(network, "max_tokens", None)
        if isinstance(limit, int) and limit < self.max_tokens:
            raise LimbeckError(
                f"max_tokens of the task must be at most that of {type(network).__name__}, {limit}, got "
                f"{self.max_tokens}"
            )

    def monitor(self, network: nn.Module, batch: Any) -> Tensor:
        """``[batch, 2]``: Σ −log p of the target tokens and their number."""
        return self._losses(network, batch)

    def score(self, network: nn.Module, batch: Any) -> Scores:
        """Translations by beam search; the statistics are those of BLEU and chrF++."""
        losses, is_labeled = self._losses(network, batch), rows.get_target(batch).is_row.any(dim=1).cpu()
        found = translate(
            network, batch["input_ids"], batch["attention_mask"], num_beams=self.num_beams,
            prefix_ids=self._prefix_ids(batch), **self._search_options(),
        )  # fmt: skip
        texts, references = self._to_texts(found.tokens), self._references(batch)
        labeled = is_labeled.nonzero()[:, 0].tolist()
        counts = count_matches(
            [texts[i] for i in labeled], [references[i] for i in labeled], tokenize=self.tokenize
        )  # fmt: skip
        statistics = torch.full((len(texts), NUM_STATISTICS), torch.nan, dtype=torch.float64)
        statistics[is_labeled] = counts
        pairs = batch["pair"].reshape(-1).cpu() if "pair" in batch else torch.zeros(len(texts), dtype=torch.long)
        return Scores(statistics, texts, (counts, losses[is_labeled], pairs[is_labeled]))

    def metric_value(
        self, statistics: Tensor, weights: Tensor | None = None, *, metric: MetricSpec | None = None
    ) -> Tensor:
        """BLEU or chrF++ of sentences, or from :meth:`monitor` the negative log-likelihood per token."""
        if metric == NLL:
            return reduce_statistics(statistics, weights, lambda sums: sums[..., 0] / sums[..., 1])
        if (metric or self.primary_metric) == BLEU:
            return reduce_statistics(statistics[:, :BLEU_COLUMNS], weights, bleu)
        return reduce_statistics(statistics[:, BLEU_COLUMNS:], weights, chrf)

    def metrics(self) -> TranslationMetrics:
        """BLEU, chrF++, likelihood, and the primary metric of each language pair."""
        return TranslationMetrics(self.primary, self.tokenize, num_pairs=len(self.class_names))

    def model_inputs(self, batch: Any) -> ModelInputs:
        """``input_ids``, ``attention_mask`` and the shifted target, by keyword."""
        tokens = rows.get_target(batch).tokens
        decoder_input_ids = rows.shift_right(tokens, self.decoder_start_token_id)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        mask = F.pad(tokens != PADDING, (0, decoder_input_ids.shape[1] - tokens.shape[1]))
        return ModelInputs((), {**inputs, "decoder_input_ids": decoder_input_ids}, {"decoder_input_ids": mask})

    def encode_outputs(self, outputs: Outputs, batch: Any) -> Mapping[str, Tensor]:
        """The logits by sample, with the teacher's own translations."""
        return codec.encode(outputs, batch)

    def decode_outputs(self, stored: Mapping[str, Tensor], batch: Any) -> Outputs:
        """The outputs again, with the rows of this batch."""
        return codec.decode(stored, batch)

    def examples(self, batch: Any, scores: Mapping[str, Scores], facts: Mapping[str, Any]) -> list[Example]:
        """Source, reference and translations, in which words that are not in the reference are marked."""
        sources = self._to_texts(batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100))
        is_labeled = rows.get_target(batch).is_row.any(dim=1).tolist()
        references = [text if known else None for text, known in zip(self._references(batch), is_labeled, strict=True)]
        names = facts.get("class_names") or ()
        pairs = batch["pair"].reshape(-1).tolist() if "pair" in batch and names else None
        labels = None if pairs is None else [names[pair] for pair in pairs]
        return translation_examples(sources, references, labels, get_sample_ids(batch, len(sources)), scores)

    def deployment_model(self, network: nn.Module, data: Any) -> nn.Module:
        """The network on its three inputs, with its logits as a tensor."""
        return ForcedDecoder(network, self.vocab_size)

    def _logits_by_sample(self, network: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The logits of each sample, with the network's own translations where they are wanted."""
        inputs, target = self.model_inputs(batch).kwargs, rows.get_target(batch)
        if not self._has_hypotheses(batch):
            return {rows.LOGITS: rows.call_network(network, inputs, self.vocab_size)}
        memory = encode_source(network, inputs)
        if rows.HYPOTHESIS in batch:
            own = {name: batch[name] for name in (rows.HYPOTHESIS, rows.HYPOTHESIS_LENGTH)}
        else:
            options = {**self._search_options(), "num_beams": self.hypothesis_beams}
            own = search_hypotheses(network, inputs, memory, prefix_ids=self._prefix_ids(batch), **options)
        hypothesis = rows.find_hypothesis(own)
        assert hypothesis is not None
        logits = [self._decode(network, inputs, memory, sentences) for sentences in (target, hypothesis)]
        return {rows.LOGITS: rows.pack(logits[0], target, logits[1], hypothesis), **own}

    def _has_hypotheses(self, batch: Any) -> bool:
        """Whether the logits by sample of a network are also those of translations."""
        wants_own = self.hypothesis_beams > 0 and "view" in batch and not torch.is_grad_enabled()
        return rows.HYPOTHESIS in batch or wants_own

    def _student_rows(
        self, network: nn.Module, batch: Any, target: rows.Sentences, hypothesis: rows.Sentences
    ) -> Tensor:
        """The rows of a student, which decodes the target of samples that have one, and the translations."""
        inputs, parts = self.model_inputs(batch).kwargs, list[Tensor]()
        memory = encode_source(network, inputs)
        for sentences in (target, hypothesis):
            index = sentences.is_row.any(dim=1).nonzero()[:, 0]
            if len(index):
                logits = self._decode(network, inputs, memory, sentences, samples=index)
                parts.append(logits[sentences.is_row[index]])
        if not parts:  # no token at all: a row-less tensor that depends on the network
            parts = [self._decode(network, inputs, memory, target).flatten(0, 1)[:0]]
        return torch.cat(parts)

    def _decode(
        self, network: nn.Module, inputs: Mapping[str, Tensor], memory: Tensor | None, sentences: rows.Sentences, *,
        samples: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        return decode_sentences(
            network, inputs, memory, sentences, vocab_size=self.vocab_size, start_id=self.decoder_start_token_id,
            samples=samples,
        )  # fmt: skip

    def _covered_logits(self, network: nn.Module, batch: Any, covered: Tensor) -> dict[str, Tensor]:
        """:meth:`_logits_by_sample` of the samples in ``covered``, with zeros for the others."""
        target, hypothesis = rows.get_target(batch), rows.find_hypothesis(batch)
        lengths = target.lengths + (0 if hypothesis is None else hypothesis.lengths)
        longest = max(1, int(lengths.max()) if len(lengths) else 1)
        if bool(covered.all()):
            return self._logits_by_sample(network, batch)
        if bool(covered.any()):
            part = self._logits_by_sample(network, select_samples(batch, covered.cpu().numpy()))
            longest = max(longest, part[rows.LOGITS].shape[1])
        else:
            part = {rows.LOGITS: torch.zeros(0, longest, self.vocab_size, device=covered.device)}
            if self._has_hypotheses(batch):
                none = torch.zeros(0, 1, dtype=torch.long, device=covered.device)
                part |= {rows.HYPOTHESIS: none, rows.HYPOTHESIS_LENGTH: none[:, 0]}
        logits = part[rows.LOGITS]
        part[rows.LOGITS] = F.pad(logits, (0, 0, 0, longest - logits.shape[1]))
        spread = dict[str, Tensor]()
        for name, tensor in part.items():
            spread[name] = tensor.new_zeros(len(covered), *tensor.shape[1:])
            spread[name][covered] = tensor
        return spread

    def _losses(self, network: nn.Module, batch: Any) -> Tensor:
        """``[batch, 2]`` float64: Σ −log p and number of target tokens; NaN without a target."""
        target, inputs = rows.get_target(batch), self.model_inputs(batch).kwargs
        losses = list[Tensor]()
        for part in torch.split(torch.arange(len(target.tokens), device=target.tokens.device), MAX_SENTENCES):
            logits = rows.call_network(network, {name: t[part] for name, t in inputs.items()}, self.vocab_size)
            labels = target.tokens[part].masked_fill(~target.is_row[part], -100)
            logits = logits[:, : labels.shape[1]].float().movedim(2, 1)
            losses.append(F.cross_entropy(logits, labels, ignore_index=-100, reduction="none").double().sum(dim=1))
        counts = target.is_row.sum(dim=1)
        columns = torch.stack([torch.cat(losses), counts.double()], dim=1)
        return columns.masked_fill((counts == 0)[:, None], torch.nan).cpu()

    def _search_options(self) -> dict[str, Any]:
        return {
            "start_id": self.decoder_start_token_id, "end_id": self.eos_token_id, "max_tokens": self.max_tokens,
            "length_penalty": self.length_penalty, "vocab_size": self.vocab_size,
        }  # fmt: skip

    def _prefix_ids(self, batch: Any) -> Tensor | None:
        """The first target token of each sample, where it is given by the language pair."""
        if not self.target_prefix_ids or "pair" not in batch:
            return None
        return torch.tensor(list(self.target_prefix_ids), device=batch["pair"].device)[batch["pair"].reshape(-1)]

    def _references(self, batch: Any) -> list[str]:
        """The translation of each sample: its bytes, or the text of its tokens."""
        if "reference" not in batch:
            return self._to_texts(rows.get_target(batch).tokens)
        lengths = batch["reference_length"].tolist()
        pairs = zip(batch["reference"].cpu().numpy(), lengths, strict=True)
        return [row[:length].tobytes().decode(errors="replace") for row, length in pairs]

    def _to_texts(self, tokens: Tensor) -> list[str]:
        """The text of each row of tokens; their numbers where the task has no vocabulary."""
        if self.vocabulary:
            return [join_pieces(row, self.vocabulary) for row in tokens.tolist()]
        skipped = (self.eos_token_id, self.decoder_start_token_id, -100)
        return [" ".join(str(token) for token in row if token not in skipped) for row in tokens.tolist()]
