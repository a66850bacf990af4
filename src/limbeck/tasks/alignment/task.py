"""Alignment of speech and text: both are embedded in one space, where each retrieves the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs
from limbeck.core.task import Example, ModelInputs, Scores
from limbeck.data.module import DataModule
from limbeck.data.normalization import InputNormalization, NormalizeFrames
from limbeck.losses._alignment import normalize_rows
from limbeck.losses._ops import IGNORE_INDEX
from limbeck.tasks.alignment.batch import label_texts, read_texts, require_fields
from limbeck.tasks.alignment.checks import require_frames_for_tokens
from limbeck.tasks.alignment.codec import decode_alignment, encode_alignment
from limbeck.tasks.alignment.metrics import MEAN_RANK, METRICS, R1, RetrievalMetrics, retrieval_values
from limbeck.tasks.alignment.report import alignment_examples
from limbeck.utils.batch_fields import get_sample_ids
from limbeck.utils.frames import frame_stride, length_mask

__all__ = ["SpeechTextAlignment"]

_SIDES = ("speech", "text")


@final
@dataclass(frozen=True, slots=True)
class SpeechTextAlignment:
    """Clips and texts with one meaning, embedded in one space.

    A batch is a mapping with ``input`` ``[batch, frames, mels]``, ``input_length`` ``[batch]`` (0: no speech),
    ``input_ids`` and ``attention_mask`` ``[batch, tokens]`` (1 for tokens, then 0; all 0: no text). Optional fields:
    ``target`` ``[batch]``, the class of a pair, such as its language (below 0: speech and text are no pair); ``tokens``
    and ``tokens_length``, a transcript for CTC; the text itself, as ``text`` (strings, or code points
    ``[batch, length]`` with ``text_length``).

    A network is called as ``network(input=…, input_length=…, input_ids=…, attention_mask=…)`` and returns, by name,
    what it has of ``speech_embedding`` and ``text_embedding`` ``[batch, width]``, ``speech_states`` and ``text_states``
    ``[batch, positions, width]``, and ``frame_logits`` of a CTC head ``[batch, frames, classes]``; or a tuple of both
    embeddings. One that embeds one side only can be a teacher; it retrieves nothing.

    Args:
        classes: number of classes in ``target``, for metrics by class.
        candidates: number of texts, or clips, among which R@1 counts the nearest; see
            :func:`~limbeck.tasks.alignment.metrics.outranked_fractions`.
    """

    classes: int = 1
    candidates: int = 100
    primary_metric: ClassVar[MetricSpec] = R1
    monitored_metrics: ClassVar[tuple[MetricSpec, ...]] = (R1, MEAN_RANK)
    metric_specs: ClassVar[tuple[MetricSpec, ...]] = METRICS
    supervised_loss: ClassVar[str] = "InfoNCELoss"
    pipeline_tag: ClassVar[str] = "feature-extraction"
    max_resamples: ClassVar[int] = 1000
    input_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {
        "input": {0: "batch", 1: "frames"},
        "input_length": {0: "batch"},
        "input_ids": {0: "batch", 1: "tokens"},
        "attention_mask": {0: "batch", 1: "tokens"},
    }
    output_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {
        "speech_embedding": {0: "batch"},
        "text_embedding": {0: "batch"},
    }

    def __post_init__(self) -> None:
        if self.classes < 1 or self.candidates < 2:
            raise LimbeckError(
                f"classes must be at least 1 and candidates at least 2, got {self.classes} and {self.candidates}"
            )

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """No rows: embeddings, states and their lengths are in ``by_sample``, as losses on alignment read them."""
        inputs = self.model_inputs(batch).kwargs
        tensors = _name_outputs(network(**inputs), network, len(inputs["input_ids"]))
        by_sample, device = dict(tensors), next(iter(tensors.values())).device
        frames, lengths = inputs["input"], inputs["input_length"].to(device)
        mask = inputs["attention_mask"].to(device).bool()
        presence = {"speech": lengths > 0, "text": mask.any(dim=1)}
        for side in _SIDES:
            if f"{side}_embedding" in tensors:
                by_sample[f"has_{side}"] = presence[side]
        num_frames = {tensors[name].shape[1] for name in ("speech_states", "frame_logits") if name in tensors}
        if num_frames:
            stride = frame_stride(frames.shape[1], max(num_frames))
            if len(num_frames) > 1 or stride is None:
                raise LimbeckError(
                    f"{type(network).__name__} must return one state and one row of CTC logits for every n input "
                    f"frames, the last one rounded up, got {sorted(num_frames)} for {frames.shape[1]} frames"
                )
            speech_length = (lengths + stride - 1) // stride
            by_sample |= dict.fromkeys(("speech_length", "frame_length"), speech_length)
        if "text_states" in tensors:
            by_sample["text_length"] = mask.sum(dim=1)
        return Outputs(by_sample=by_sample)

    def target(self, batch: Any) -> Tensor:
        """A number for the text of each pair, ``[batch]``, equal for equal texts; −100 where there is no pair."""
        require_fields(batch)
        labels = label_texts(batch["input_ids"], batch["attention_mask"])
        is_pair = (batch["input_length"] > 0).to(labels.device) & batch["attention_mask"].bool().any(dim=1)
        if "target" in batch:
            is_pair &= batch["target"].to(labels.device) >= 0
        return labels.masked_fill(~is_pair, IGNORE_INDEX)

    def sample_targets(self, batch: Any) -> Mapping[str, Tensor]:
        """``tokens`` ``[batch, tokens]`` and ``token_length`` ``[batch]`` of the transcripts, if the batch has them."""
        if "tokens" not in batch:
            return {}
        lengths = batch["tokens_length"].masked_fill(batch["input_length"] <= 0, -1)
        if "target" in batch:
            lengths = lengths.masked_fill(batch["target"] < 0, -1)
        return {"tokens": batch["tokens"], "token_length": lengths}

    def input_mask(self, batch: Any) -> Tensor:
        """Which input frames are valid, ``[batch, frames]``; hidden features are those of speech."""
        return length_mask(batch["input_length"], batch["input"])

    def check_data(self, network: nn.Module, data: Any) -> None:
        """Refuse transcripts of the training split that are too long for the CTC frames of ``network``."""
        if isinstance(data, DataModule):
            require_frames_for_tokens(self, network, data)

    def monitor(self, network: nn.Module, batch: Any) -> Tensor:
        """The statistics of :meth:`score`."""
        return self.score(network, batch).statistics

    def score(self, network: nn.Module, batch: Any) -> Scores:
        """Embeddings of speech and text; the statistics are the text, as a number, and both embeddings.

        A network that embeds one side only gets zeros for the other, so it retrieves nothing.
        """
        by_sample, labels = self.outputs(network, batch).by_sample, self.target(batch).cpu()
        given = next(by_sample[name] for name in ("speech_embedding", "text_embedding") if name in by_sample)
        embeddings = [by_sample.get(f"{side}_embedding", torch.zeros_like(given)) for side in _SIDES]
        speech, text = (normalize_rows(embedding).double().cpu() for embedding in embeddings)
        statistics = torch.cat([labels.double()[:, None], speech, text], dim=1)
        is_pair = labels != IGNORE_INDEX
        classes = batch["target"].cpu() if "target" in batch else torch.zeros_like(labels)
        texts = read_texts(batch)
        pair_texts = [text for text, keep in zip(texts, is_pair.tolist(), strict=True) if keep]
        return Scores(
            statistics.masked_fill(~is_pair[:, None], torch.nan),
            list(zip(speech, text, strict=True)),
            (speech[is_pair], text[is_pair], labels[is_pair], classes[is_pair], pair_texts),
        )

    def metric_value(
        self, statistics: Tensor, weights: Tensor | None = None, *, metric: MetricSpec | None = None
    ) -> Tensor:
        """R@1 among ``candidates`` random texts and clips of these samples, or the mean rank."""
        speech, text = statistics[:, 1:].double().chunk(2, dim=1)
        weights = None if weights is None else weights.double()
        candidates = None if metric == MEAN_RANK else self.candidates
        values = retrieval_values(speech, text, statistics[:, 0], weights, candidates=candidates)
        if weights is None:
            return values[0].mean()
        return (weights * values).sum(dim=1) / weights.sum(dim=1)

    def metrics(self) -> RetrievalMetrics:
        """R@1 among all texts and clips, in each direction, and by class."""
        return RetrievalMetrics(self.classes, self.candidates)

    def model_inputs(self, batch: Any) -> ModelInputs:
        """Frames, their number, token ids and their mask, by keyword."""
        require_fields(batch)
        return ModelInputs((), {name: batch[name] for name in self.input_axes}, {"input": self.input_mask(batch)})

    def encode_outputs(self, outputs: Outputs, batch: Any) -> Mapping[str, Tensor]:
        """Embeddings, and the valid states of both sides."""
        return encode_alignment(outputs)

    def decode_outputs(self, stored: Mapping[str, Tensor], batch: Any) -> Outputs:
        """The outputs again, padded as this batch."""
        return decode_alignment(stored, batch)

    def examples(self, batch: Any, scores: Mapping[str, Scores], facts: Mapping[str, Any]) -> list[Example]:
        """Spectrograms with their text, and the nearest texts of the batch by each network."""
        return alignment_examples(
            batch, self.target(batch), read_texts(batch), get_sample_ids(batch, len(batch["input_ids"])), scores
        )

    def deployment_model(self, network: nn.Module, data: Any) -> nn.Module:
        """The network with the normalization of the data, which returns both embeddings."""
        return SpeechTextEmbedder(network, data.normalization)


@final
class SpeechTextEmbedder(nn.Module):
    """A network with the normalization of its frames, as deployed: returns the embeddings of speech and of text.

    Args:
        network: takes normalized frames, as in :class:`SpeechTextAlignment`, and embeds both sides.
        normalization: by mel band, or none.
    """

    def __init__(self, network: nn.Module, normalization: InputNormalization) -> None:
        super().__init__()
        self.network, self.normalize = network, NormalizeFrames(normalization)

    def forward(
        self, input: Tensor, input_length: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        outputs = self.network(
            input=self.normalize(input), input_length=input_length, input_ids=input_ids, attention_mask=attention_mask
        )
        tensors = _name_outputs(outputs, self.network, len(input_ids))
        if missing := [side for side in _SIDES if f"{side}_embedding" not in tensors]:
            raise LimbeckError(f"{type(self.network).__name__} must embed speech and text, got no {missing[0]}")
        return tensors["speech_embedding"], tensors["text_embedding"]


def _name_outputs(output: Any, network: nn.Module, batch_size: int) -> dict[str, Tensor]:
    """What a network returns, by name."""
    dims = {
        "speech_embedding": 2, "text_embedding": 2, "speech_states": 3, "text_states": 3, "frame_logits": 3
    }  # fmt: skip
    if isinstance(output, tuple | list) and len(output) == 2:
        output = {"speech_embedding": output[0], "text_embedding": output[1]}
    name = type(network).__name__
    if not isinstance(output, Mapping) or not {"speech_embedding", "text_embedding"} & output.keys():
        raise LimbeckError(
            f"{name} must return speech_embedding or text_embedding by name, got {type(output).__name__}"
        )
    tensors = {key: output[key] for key in dims if key in output}
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.ndim != dims[key] or len(tensor) != batch_size:
            shape = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise LimbeckError(
                f"{key} of {name} must have {dims[key]} dimensions and {batch_size} samples, got {shape}"
            )
    if len({tensor.shape[-1] for key, tensor in tensors.items() if key != "frame_logits"}) > 1:
        shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
        raise LimbeckError(
            f"embeddings and states of {name} must have one width, that of the shared layer, got {shapes}"
        )
    return tensors
