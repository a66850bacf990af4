"""Transcripts that are too long for the CTC frames of a network, found before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.data.module import DataModule, iterate_batches
from limbeck.evaluation.checks import model_device, move_to_device
from limbeck.losses._ctc import count_min_frames
from limbeck.utils.eval_mode import eval_mode
from limbeck.utils.frames import frame_stride

if TYPE_CHECKING:
    from limbeck.tasks.alignment.task import SpeechTextAlignment

_CHUNK = 256


def require_frames_for_tokens(task: SpeechTextAlignment, network: nn.Module, data: DataModule) -> None:
    """Refuse a training transcript that needs more frames than ``network`` gives, since its CTC loss is infinite."""
    train = data.train.select_labeled()
    if train.sequences is None or "tokens" not in train.sequences.fields or not len(train):
        return
    longest = train.subset(train.sequences.input_lengths(train.indices).argmax()[None])
    sample = move_to_device(next(iterate_batches(longest, data.normalization)), model_device(network))
    with eval_mode(network):
        by_sample = task.outputs(network, sample).by_sample
    if "frame_logits" not in by_sample:
        return
    stride = frame_stride(sample["input"].shape[1], by_sample["frame_logits"].shape[1])
    assert stride is not None  # as `outputs` checks
    for positions in torch.split(torch.arange(len(train)), _CHUNK):
        indices = train.indices[positions]
        tokens = [train.sequences.fields["tokens"][i] for i in indices.tolist()]
        lengths = torch.tensor([len(sequence) for sequence in tokens])
        needed = count_min_frames(torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=-1), lengths)
        frames = (train.sequences.input_lengths(indices) + stride - 1) // stride
        too_long = (needed > frames).nonzero().flatten().tolist()
        if too_long:
            i = too_long[0]
            raise LimbeckError(
                f"a transcript must not need more CTC frames than the network gives: sample "
                f"{int(train.sample_ids[positions[i]])} of the training split has {int(frames[i])} frames of "
                f"{type(network).__name__} (stride {stride}) and needs {int(needed[i])}; use a smaller stride, or "
                "remove the sample"
            )
