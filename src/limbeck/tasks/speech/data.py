"""Targets that are too long for the frames of a network, found before training."""

from __future__ import annotations

import torch

from limbeck.core.errors import LimbeckError
from limbeck.data.split import Split
from limbeck.losses._ctc import count_min_frames

__all__ = ["find_longest", "require_enough_frames"]

_CHUNK = 4096


def find_longest(split: Split) -> int:
    """The position in ``split`` of the sample with the most input frames."""
    assert split.sequences is not None
    return int(split.sequences.input_lengths(split.indices).argmax())


def require_enough_frames(split: Split, stride: int, *, split_name: str, network: str) -> None:
    """Refuse targets that need more frames than ``network`` gives, since their CTC loss is infinite.

    Args:
        split: labeled samples with the fields ``input`` and ``target``.
        stride: input frames for each frame of the network.
        split_name: name of the split in errors.
        network: name of the network in errors.
    """
    sequences = split.sequences
    if sequences is None or "target" not in sequences.fields:
        return
    for positions in torch.split(torch.arange(len(split)), _CHUNK):
        indices = split.indices[positions]
        tokens = [sequences.fields["target"][i] for i in indices.tolist()]
        lengths = torch.tensor([len(target) for target in tokens])
        padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=-1)
        needed = count_min_frames(padded, lengths)
        frames = (sequences.input_lengths(indices) + stride - 1) // stride
        too_long = (needed > frames).nonzero().flatten().tolist()
        if too_long:
            i = too_long[0]
            sample_id = int(split.sample_ids[positions[i]])
            raise LimbeckError(
                f"a CTC target must not need more frames than the network gives: sample {sample_id} of the "
                f"{split_name} split has {int(frames[i])} frames of {network} (stride {stride}) and a target of "
                f"{int(lengths[i])} tokens that needs {int(needed[i])}; use a smaller stride, or remove the sample"
            )
