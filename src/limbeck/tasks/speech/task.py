"""Speech recognition with CTC: a row is a frame, the target is a sequence of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.limits import MAX_BATCH_SIZE
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs
from limbeck.core.task import Example, ModelInputs, Scores, reduce_statistics
from limbeck.data.module import DataModule, iterate_batches
from limbeck.data.normalization import InputNormalization, NormalizeFrames
from limbeck.evaluation.checks import model_device, move_to_device
from limbeck.losses._ctc_search import search_prefixes
from limbeck.losses.ctc import ctc_loss
from limbeck.losses.temperature import Range
from limbeck.tasks.speech.data import find_longest, require_enough_frames
from limbeck.tasks.speech.metrics import (
    CER,
    CTC,
    PER,
    SEQUENCE_ACCURACY,
    WER,
    DecodedTokens,
    SequenceMetrics,
    decode_greedy,
    edit_distances,
    split_words,
)
from limbeck.tasks.speech.report import speech_examples
from limbeck.utils.eval_mode import eval_mode
from limbeck.utils.frames import frame_stride, length_mask
from limbeck.utils.logits import find_logits

__all__ = ["SpeechCTC"]

_POSTERIORS: Final = Range(default=2.0, low=1.0, high=4.0)
"""Lower than for images: a CTC network is sure of most frames, and they are blank."""


@final
@dataclass(frozen=True, slots=True)
class SpeechCTC:
    """Sequences of phonemes or characters, by connectionist temporal classification.

    A batch is a mapping with ``input`` ``[batch, frames, mels]``, ``input_length`` ``[batch]``, ``target``
    ``[batch, tokens]`` and ``target_length`` ``[batch]`` (below 0: no target). A network is called as
    ``network(input, input_length)`` and returns logits ``[batch, ⌈frames/stride⌉, classes]`` of a stride of its own.

    Losses on logits compare frames on a grid of ``frame_stride`` input frames, so student and teacher may have
    different frame rates: of the frames of a faster network in a row, the one with the lowest probability of the blank
    counts; those of a slower one are repeated. Frames beyond the length of a sample are left out. ``CTCLoss`` and
    decoding use the frames of the network itself.

    Args:
        classes: number of classes, the blank among them.
        frame_stride: input frames per row.
        blank: index of the blank.
        num_beams: prefixes of the beam search in test (:func:`~limbeck.losses._ctc_search.search_prefixes`); 1: the
            best path. Validation takes the best path.
        word_separator: the token between words, where tokens are characters; a fact of the data.
        primary: the metric of verdicts: ``per``, or ``cer`` or ``wer`` where tokens are characters; ``None``: the
            error rate by token.
    """

    classes: int
    frame_stride: int = 2
    blank: int = 0
    num_beams: int = field(default=1, repr=False)
    word_separator: int | None = field(default=None, repr=False)
    primary: Literal["per", "cer", "wer"] | None = field(default=None, repr=False)
    temperatures: ClassVar[Range] = _POSTERIORS
    supervised_loss: ClassVar[str] = "CTCLoss"
    pipeline_tag: ClassVar[str] = "automatic-speech-recognition"
    input_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {
        "input": {0: "batch", 1: "frames"},
        "input_length": {0: "batch"},
    }
    output_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {"logits": {0: "batch", 1: "output_frames"}}

    def __post_init__(self) -> None:
        if self.classes < 2 or self.frame_stride < 1 or not 0 <= self.blank < self.classes:
            raise LimbeckError(
                f"classes must be at least 2, frame_stride at least 1 and blank one of the classes, got {self}"
            )
        if not 1 <= self.num_beams <= MAX_BATCH_SIZE:
            raise LimbeckError(f"num_beams must be from 1 to {MAX_BATCH_SIZE:,}, got {self.num_beams}: 1 is no search")
        allowed = ("per",) if self.word_separator is None else ("cer", "wer")
        if self.primary is not None and self.primary not in allowed:
            raise LimbeckError(
                f"primary must be {' or '.join(allowed)} for data {'without' if len(allowed) == 1 else 'with'} words, "
                f"got {self.primary!r}"
            )

    @property
    def primary_metric(self) -> MetricSpec:
        """The error rate by token, or by word."""
        return WER if self.primary == "wer" else self._token_metric

    @property
    def monitored_metrics(self) -> tuple[MetricSpec, ...]:
        """The primary metric, the other error rate, and the CTC loss."""
        return (*sorted(self._error_rates, key=lambda metric: metric != self.primary_metric), CTC)

    @property
    def metric_specs(self) -> tuple[MetricSpec, ...]:
        """Error rates and sequence accuracy."""
        return (*self._error_rates, SEQUENCE_ACCURACY)

    @property
    def _token_metric(self) -> MetricSpec:
        return PER if self.word_separator is None else CER

    @property
    def _error_rates(self) -> tuple[MetricSpec, ...]:
        return (self._token_metric,) if self.word_separator is None else (CER, WER)

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """One row per frame of the grid; ``by_sample`` has ``frame_logits`` and ``frame_length`` of the network."""
        frames, lengths = batch["input"], batch["input_length"]
        logits = find_logits(network(frames, lengths))
        if logits is None or logits.ndim != 3 or logits.shape[2] != self.classes or len(logits) != len(frames):
            shape = None if logits is None else list(logits.shape)
            raise LimbeckError(
                f"logits of {type(network).__name__} must be [{len(frames)}, frames, {self.classes}], got {shape}"
            )
        stride = frame_stride(frames.shape[1], logits.shape[1])
        if stride is None:
            raise LimbeckError(
                f"{type(network).__name__} must return one frame for every n input frames, the last one rounded up, "
                f"got {logits.shape[1]} frames for {frames.shape[1]}"
            )
        return self._rows(logits, stride, lengths)

    def target(self, batch: Any) -> None:
        """No target by row: there is no alignment."""
        return

    def sample_targets(self, batch: Any) -> Mapping[str, Tensor]:
        """``tokens`` ``[batch, tokens]`` and ``token_length`` ``[batch]``; empty for a batch without a target."""
        if "target" not in batch:
            return {}
        tokens, lengths = batch["target"], batch["target_length"]
        if tokens.is_cpu and lengths.numel() and int(lengths.max()) > 0:
            valid = tokens[torch.arange(tokens.shape[1]) < lengths[:, None]]
            if len(valid) and not (int(valid.min()) >= 0 and int(valid.max()) < self.classes):
                raise LimbeckError(
                    f"tokens must be in 0..{self.classes - 1}, got {int(valid.min())} to {int(valid.max())}"
                )
            if bool((valid == self.blank).any()):
                raise LimbeckError(f"tokens must not be the blank, {self.blank}; number them without it")
        return {"tokens": tokens, "token_length": lengths}

    def input_mask(self, batch: Any) -> Tensor:
        """Which input frames are valid, ``[batch, frames]``."""
        return length_mask(batch["input_length"], batch["input"])

    def check_data(self, network: nn.Module, data: Any) -> None:
        """Refuse targets of the training and validation split that are too long for the frames of ``network``."""
        if not isinstance(data, DataModule):
            return
        for name, split in (("training", data.train), ("validation", data.validation)):
            labeled = split.select_labeled()
            if labeled.sequences is None or not len(labeled):
                continue
            longest = labeled.subset(torch.tensor([find_longest(labeled)]))
            batch = move_to_device(next(iterate_batches(longest, data.normalization)), model_device(network))
            with eval_mode(network):
                logits = self.outputs(network, batch).by_sample["frame_logits"]
            stride = frame_stride(batch["input"].shape[1], logits.shape[1])
            assert stride is not None  # as `outputs` checks
            require_enough_frames(labeled, stride, split_name=name, network=type(network).__name__)

    def monitor(self, network: nn.Module, batch: Any) -> Tensor:
        """``[batch, 4]``: errors, tokens, CTC loss per token, 1; errors and number of words before the loss."""
        outputs = self.outputs(network, batch)
        tokens, lengths = self._tokens(batch)
        logits, frame_lengths = outputs.by_sample["frame_logits"], outputs.by_sample["frame_length"]
        losses = ctc_loss(logits, frame_lengths, tokens, lengths, blank=self.blank, reduction="none")
        losses = (losses / lengths.clamp(min=1).to(losses.device)).double().cpu()
        columns = torch.stack([losses, torch.ones_like(losses)], dim=1).masked_fill(
            (lengths.cpu() < 0)[:, None], torch.nan
        )
        return torch.cat([self._errors(outputs, batch, num_beams=1)[1], columns], dim=1)

    def score(self, network: nn.Module, batch: Any) -> Scores:
        """Decoded tokens; the statistics are the number of errors and of target tokens, and of words."""
        outputs = self.outputs(network, batch)
        decoded, statistics = self._errors(outputs, batch, num_beams=self.num_beams)
        stride = frame_stride(batch["input"].shape[1], outputs.by_sample["frame_logits"].shape[1])
        decoded = [DecodedTokens(tokens, [(stride or 1) * frame for frame in tokens.frames]) for tokens in decoded]
        return Scores(statistics, decoded, (statistics[~statistics[:, 0].isnan()],))

    def metric_value(
        self, statistics: Tensor, weights: Tensor | None = None, *, metric: MetricSpec | None = None
    ) -> Tensor:
        """Errors by tokens or words, or from :meth:`monitor` the mean CTC loss per token."""
        metric = metric or self.primary_metric
        columns = statistics[:, -2:] if metric == CTC else statistics[:, 2:4] if metric == WER else statistics[:, :2]
        return reduce_statistics(columns, weights, lambda sums: sums[..., 0] / sums[..., 1])

    def metrics(self) -> SequenceMetrics:
        """Error rates and sequence accuracy."""
        return SequenceMetrics(self._token_metric)

    def model_inputs(self, batch: Any) -> ModelInputs:
        """The frames and their numbers."""
        return ModelInputs((batch["input"], batch["input_length"]))

    def encode_outputs(self, outputs: Outputs, batch: Any) -> Mapping[str, Tensor]:
        """The logits of the network's own frames, padded, with their number and stride."""
        logits, lengths = outputs.by_sample["frame_logits"], outputs.by_sample["frame_length"]
        stride = frame_stride(batch["input"].shape[1], logits.shape[1])
        assert stride is not None  # as `outputs` checks
        return {"logits": logits, "length": lengths, "stride": torch.full_like(lengths, stride)}

    def decode_outputs(self, stored: Mapping[str, Tensor], batch: Any) -> Outputs:
        """The outputs again, on the grid of this task."""
        stride = int(stored["stride"][0])
        num_frames = -(-batch["input"].shape[1] // stride)
        logits = stored["logits"][:, :num_frames]
        if logits.shape[1] < num_frames:
            logits = nn.functional.pad(logits, (0, 0, 0, num_frames - logits.shape[1]))
        return self._rows(logits, stride, batch["input_length"])

    def examples(self, batch: Any, scores: Mapping[str, Scores], facts: Mapping[str, Any]) -> list[Example]:
        """Spectrograms with the target and the decoded tokens of each network."""
        tokens, lengths = self._tokens(batch)
        targets = [
            row[:length].tolist() if length >= 0 else None for row, length in zip(tokens, lengths.tolist(), strict=True)
        ]
        names = facts.get("class_names") or [str(index) for index in range(self.classes)]
        return speech_examples(
            batch["input"], batch["input_length"], targets, batch["sample_id"], scores, names,
            between=" " if self.word_separator is None else "",
        )  # fmt: skip

    def deployment_model(self, network: nn.Module, data: Any) -> nn.Module:
        """The network with the normalization of the data: takes log-mel frames and their number."""
        return NormalizedFrames(network, data.normalization)

    def _errors(self, outputs: Outputs, batch: Any, *, num_beams: int) -> tuple[list[DecodedTokens], Tensor]:
        """Decoded tokens, and ``[batch, 2]`` errors and target tokens, and those of words; NaN without a target."""
        logits, frame_lengths = outputs.by_sample["frame_logits"], outputs.by_sample["frame_length"]
        if num_beams == 1:
            decoded = decode_greedy(logits, frame_lengths, blank=self.blank)
        else:
            best = search_prefixes(logits, frame_lengths, blank=self.blank, beam_size=num_beams)
            rows = zip(best.tokens[:, 0].tolist(), best.lengths[:, 0].tolist(), strict=True)
            decoded = [DecodedTokens(row[:count]) for row, count in rows]
        tokens, lengths = self._tokens(batch)
        targets = [row[: max(0, n)].tolist() for row, n in zip(tokens.cpu(), lengths.tolist(), strict=True)]
        columns = [edit_distances(decoded, targets), lengths.cpu().double()]
        if (separator := self.word_separator) is not None:
            words = [[split_words(row, separator) for row in rows] for rows in (decoded, targets)]
            columns += [edit_distances(*words), torch.tensor([len(row) for row in words[1]], dtype=torch.float64)]
        statistics = torch.stack(columns, dim=1)
        return decoded, statistics.masked_fill((lengths.cpu() < 0)[:, None], torch.nan)

    def _tokens(self, batch: Any) -> tuple[Tensor, Tensor]:
        targets = self.sample_targets(batch)
        if not targets:
            count = len(batch["input"])
            return torch.zeros(count, 1, dtype=torch.long), torch.full((count,), -1)
        return targets["tokens"], targets["token_length"]

    def _rows(self, logits: Tensor, stride: int, lengths: Tensor) -> Outputs:
        """Rows on the grid from logits of frames of ``stride`` input frames."""
        lengths = lengths.to(logits.device)
        frame_lengths = (lengths + stride - 1) // stride
        grid_lengths = (lengths + self.frame_stride - 1) // self.frame_stride
        on_grid = logits
        if stride != self.frame_stride:
            on_grid = _resample(logits, frame_lengths, stride, self.frame_stride, int(grid_lengths.max()), self.blank)
        is_row = torch.arange(on_grid.shape[1], device=logits.device) < grid_lengths[:, None]
        return Outputs(
            logits=on_grid[is_row],
            by_sample={"frame_logits": logits, "frame_length": frame_lengths},
            row_to_sample=is_row.nonzero()[:, 0],
        )


@final
class NormalizedFrames(nn.Module):
    """A network with the normalization of its frames, as deployed.

    Args:
        network: takes normalized frames ``[batch, frames, mels]`` and their number ``[batch]``.
        normalization: by mel band, or none.
    """

    def __init__(self, network: nn.Module, normalization: InputNormalization) -> None:
        super().__init__()
        self.network, self.normalize = network, NormalizeFrames(normalization)

    def forward(self, frames: Tensor, lengths: Tensor) -> Any:
        return self.network(self.normalize(frames), lengths)


def _resample(logits: Tensor, lengths: Tensor, stride: int, grid_stride: int, num_rows: int, blank: int) -> Tensor:
    """Logits ``[batch, rows, classes]`` on a grid of ``grid_stride`` input frames, of ``lengths`` valid frames.

    Frame i of the network begins at input frame i · ``stride``. On a coarser grid a row is the frame, of those that
    begin in it, with the lowest probability of the blank: CTC emits a token in a single frame, and the mean with the
    blank frames beside it would be a row that is decoded as blank. On a finer grid frames are repeated.
    """
    device, num_frames = logits.device, logits.shape[1]
    first = (torch.arange(num_rows, device=device) * grid_stride // stride).clamp(max=num_frames - 1)
    if grid_stride < stride:
        return logits[:, first]
    row_of_frame = torch.arange(num_frames, device=device) * stride // grid_stride
    in_row = row_of_frame == torch.arange(num_rows, device=device)[:, None]
    is_valid = torch.arange(num_frames, device=device) < lengths[:, None]
    blank_log_p = logits.detach().float().log_softmax(dim=2)[:, :, blank]
    is_candidate = in_row & is_valid[:, None]
    frames = blank_log_p[:, None].masked_fill(~is_candidate, torch.inf).argmin(dim=2)
    # The last row may be the end of a frame that began before it.
    frames = torch.where(is_candidate.any(dim=2), frames, first)
    return logits.gather(1, frames[:, :, None].expand(-1, -1, logits.shape[2]))
