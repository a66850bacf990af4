"""Translation of speech and of its text: a row is a target token, so that networks of either side teach each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs
from limbeck.core.task import Example, ModelInputs, Panel, Scores, reduce_statistics
from limbeck.data.normalization import InputNormalization, NormalizeFrames
from limbeck.losses._ops import IGNORE_INDEX
from limbeck.losses.temperature import Range
from limbeck.tasks.alignment.batch import require_fields
from limbeck.utils.batch_fields import get_sample_ids
from limbeck.utils.frames import length_mask
from limbeck.utils.logits import find_logits

__all__ = ["SpeechTextTranslation"]

TOKEN_ACCURACY: Final = MetricSpec(
    name="token_accuracy", label="Token accuracy",
    description="Fraction of target tokens that are the most likely after the target tokens before them.",
)  # fmt: skip
NLL: Final = MetricSpec(
    name="nll", label="Negative log-likelihood", unit="nats per token", higher_is_better=False, digits=3
)


@final
@dataclass(frozen=True, slots=True)
class SpeechTextTranslation:
    """Target tokens from the speech of a sentence or from its text, by networks that read one of them.

    A batch has the four inputs of :class:`~limbeck.tasks.SpeechTextAlignment` and ``target``
    ``[batch, target tokens]``, −100 in padding; a sample of ``target_length`` below 0 has no target. A network is
    called with these inputs and ``decoder_input_ids``, the target shifted to the right, by keyword, and returns
    ``logits`` ``[batch, target tokens, vocabulary]`` and optionally ``valid`` ``[batch]``, false for samples without
    the side that it reads.

    Rows are those of the target, for networks of both sides, so ``WordKDLoss`` distills a teacher of texts into a
    student of speech, or teachers of both into a student of texts. The student must have its side in each sample.

    Args:
        vocab_size: size of the target vocabulary.
        decoder_start_token_id: token before the first target token.
        vocabulary: the text of each token, for reports.
    """

    vocab_size: int
    decoder_start_token_id: int = 1
    vocabulary: Sequence[str] = field(default=(), repr=False, compare=False)
    temperatures: ClassVar[Range] = Range(default=1.0, low=1.0, high=4.0)
    primary_metric: ClassVar[MetricSpec] = TOKEN_ACCURACY
    monitored_metrics: ClassVar[tuple[MetricSpec, ...]] = (NLL,)
    metric_specs: ClassVar[tuple[MetricSpec, ...]] = (TOKEN_ACCURACY, NLL)
    supervised_loss: ClassVar[str] = "CrossEntropyLoss"
    pipeline_tag: ClassVar[str] = "translation"
    input_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {
        "input": {0: "batch", 1: "frames"},
        "input_length": {0: "batch"},
        "input_ids": {0: "batch", 1: "source_tokens"},
        "attention_mask": {0: "batch", 1: "source_tokens"},
        "decoder_input_ids": {0: "batch", 1: "target_tokens"},
    }
    output_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {"logits": {0: "batch", 1: "target_tokens"}}

    def __post_init__(self) -> None:
        if self.vocab_size < 2 or not 0 <= self.decoder_start_token_id < self.vocab_size:
            raise LimbeckError(
                "vocab_size must be at least 2 and decoder_start_token_id below it, got "
                f"{self.vocab_size} and {self.decoder_start_token_id}"
            )

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """One row per target token; without gradients ``by_sample`` has the logits of each sample."""
        inputs = self.model_inputs(batch).kwargs
        output = network(**inputs)
        logits, expected = find_logits(output), [*inputs["decoder_input_ids"].shape, self.vocab_size]
        if logits is None or list(logits.shape) != expected:
            shape = type(output).__name__ if logits is None else list(logits.shape)
            raise LimbeckError(f"logits of {type(network).__name__} must be {expected}, got {shape}")
        valid = output.get("valid") if isinstance(output, Mapping) else None
        if torch.is_grad_enabled() and valid is not None and not bool(valid.all()):
            raise LimbeckError(
                f"a student must have its side in each sample, and {int((~valid).sum())} of the batch lack that of "
                f"{type(network).__name__}: remove them from the training data"
            )
        by_sample = {} if torch.is_grad_enabled() else {"token_logits": logits}
        return self._rows(logits, batch, by_sample, valid)

    def target(self, batch: Any) -> Tensor:
        """The tokens by row."""
        tokens, is_row = _read_target(batch)
        selected = tokens[is_row]
        if len(selected) and selected.is_cpu and not 0 <= int(selected.min()) <= int(selected.max()) < self.vocab_size:
            raise LimbeckError(f"target tokens must be in 0..{self.vocab_size - 1}, or −100 in padding")
        return selected

    def monitor(self, network: nn.Module, batch: Any) -> Tensor:
        """``[batch, 2]``: Σ −log p of the target tokens and their number."""
        logits, (tokens, is_row) = self._sample_logits(network, batch), _read_target(batch)
        log_p = logits.float().log_softmax(dim=2)
        losses = -log_p.gather(2, tokens.clamp(min=0)[:, :, None].to(logits.device))[:, :, 0]
        return _sum_rows(losses, is_row)

    def score(self, network: nn.Module, batch: Any) -> Scores:
        """The most likely tokens; the statistics are the number of correct ones and of target tokens."""
        logits, (tokens, is_row) = self._sample_logits(network, batch), _read_target(batch)
        predicted = logits.argmax(dim=2)
        statistics = _sum_rows(predicted == tokens.to(predicted.device), is_row)
        predictions = [row[keep].tolist() for row, keep in zip(predicted.cpu(), (tokens >= 0).cpu(), strict=True)]
        is_labeled = ~statistics[:, 0].isnan()
        return Scores(statistics, predictions, (statistics[is_labeled], self.monitor(network, batch)[is_labeled]))

    def metric_value(
        self, statistics: Tensor, weights: Tensor | None = None, *, metric: MetricSpec | None = None
    ) -> Tensor:
        """Correct tokens by target tokens, or from :meth:`monitor` the mean negative log-likelihood."""
        return reduce_statistics(statistics, weights, lambda sums: sums[..., 0] / sums[..., 1])

    def metrics(self) -> TokenMetrics:
        """Token accuracy and likelihood."""
        return TokenMetrics()

    def model_inputs(self, batch: Any) -> ModelInputs:
        """Frames, source tokens and the shifted target, by keyword."""
        require_fields(batch)
        tokens, _ = _read_target(batch)
        start = torch.full_like(tokens[:, :1], self.decoder_start_token_id)
        shifted = torch.cat([start, tokens[:, :-1]], dim=1).clamp(min=0)
        inputs = {name: batch[name] for name in list(self.input_axes)[:4]}
        masks = {"input": length_mask(batch["input_length"], batch["input"]), "decoder_input_ids": tokens >= 0}
        return ModelInputs((), {**inputs, "decoder_input_ids": shifted}, masks)

    def encode_outputs(self, outputs: Outputs, batch: Any) -> Mapping[str, Tensor]:
        """The logits of each sample, and its number of tokens."""
        return {"logits": outputs.by_sample["token_logits"], "length": (_read_target(batch)[0] >= 0).sum(dim=1)}

    def decode_outputs(self, stored: Mapping[str, Tensor], batch: Any) -> Outputs:
        """The outputs again, with the rows of this batch."""
        return self._rows(stored["logits"], batch, {"token_logits": stored["logits"]}, None)

    def examples(self, batch: Any, scores: Mapping[str, Scores], facts: Mapping[str, Any]) -> list[Example]:
        """Source tokens, target tokens, and the most likely token at each position by each network."""
        tokens, is_row = _read_target(batch)
        sources = [
            ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        examples = []
        for i, sample_id in enumerate(get_sample_ids(batch, len(tokens)).tolist()):
            target, known = tokens[i][tokens[i] >= 0].tolist(), bool(is_row[i].any())
            predictions = {
                name: Panel(
                    self._spell(score.predictions[i]), correct=score.predictions[i] == target if known else None
                )
                for name, score in scores.items()
            }
            examples.append(
                Example(
                    sample_id=sample_id, input=Panel(self._spell(sources[i])), predictions=predictions,
                    target=Panel(self._spell(target) if known else "no target"),
                )
            )  # fmt: skip
        return examples

    def deployment_model(self, network: nn.Module, data: Any) -> nn.Module:
        """The network with the normalization of the data, with its logits as a tensor."""
        return ForcedTranslator(network, data.normalization)

    def _sample_logits(self, network: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad():
            return self.outputs(network, batch).by_sample["token_logits"]

    def _rows(self, logits: Tensor, batch: Any, by_sample: Mapping[str, Tensor], valid: Tensor | None) -> Outputs:
        is_row = _read_target(batch)[1].to(logits.device)
        return Outputs(
            logits=logits[:, : is_row.shape[1]][is_row], by_sample=by_sample, valid=valid,
            row_to_sample=is_row.nonzero()[:, 0],
        )  # fmt: skip

    def _spell(self, tokens: Sequence[int]) -> str:
        names = self.vocabulary
        return " ".join(names[token] if names else str(token) for token in tokens) or "(empty)"


@final
class TokenMetrics:
    """Token accuracy and likelihood over batches."""

    def __init__(self) -> None:
        self._correct, self._losses = list[Tensor](), list[Tensor]()

    def update(self, correct: Tensor, losses: Tensor) -> None:
        """Add the statistics of a batch, ``[batch, 2]`` each."""
        self._correct.append(correct)
        self._losses.append(losses)

    def compute(self) -> Mapping[str, Any]:
        """The metrics by name."""
        correct, losses = (torch.cat(rows).sum(dim=0) for rows in (self._correct, self._losses))
        return {"token_accuracy": float(correct[0] / correct[1]), "nll": float(losses[0] / losses[1])}


@final
class ForcedTranslator(nn.Module):
    """A network of :class:`SpeechTextTranslation` with the normalization of its frames, which returns its logits.

    Args:
        network: takes normalized frames.
        normalization: by mel band, or none.
    """

    def __init__(self, network: nn.Module, normalization: InputNormalization) -> None:
        super().__init__()
        self.network, self.normalize = network, NormalizeFrames(normalization)

    def forward(
        self, input: Tensor, input_length: Tensor, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor
    ) -> Tensor:
        output = self.network(
            input=self.normalize(input), input_length=input_length, input_ids=input_ids,
            attention_mask=attention_mask, decoder_input_ids=decoder_input_ids,
        )  # fmt: skip
        logits = find_logits(output)
        if logits is None:
            raise LimbeckError(f"{type(self.network).__name__} must return logits")
        return logits


def _read_target(batch: Any) -> tuple[Tensor, Tensor]:
    """Target tokens ``[batch, tokens]``, −100 in padding, and which of them are rows."""
    tokens = batch.get("target") if isinstance(batch, Mapping) else None
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
        raise LimbeckError("target must be [batch, tokens] integers, −100 in padding: add it to the batch")
    is_row = tokens != IGNORE_INDEX
    if "target_length" in batch:
        is_row = is_row & (batch["target_length"] >= 0)[:, None].to(tokens.device)
    return tokens, is_row


def _sum_rows(values: Tensor, is_row: Tensor) -> Tensor:
    """``[batch, 2]`` float64: the sum of the values of each sample's rows and their number; NaN without rows."""
    is_row = is_row.to(values.device)
    sums = torch.stack([values.double().masked_fill(~is_row, 0).sum(dim=1), is_row.sum(dim=1).double()], dim=1)
    return sums.masked_fill(~is_row.any(dim=1, keepdim=True), torch.nan).cpu()
