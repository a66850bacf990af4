"""Embeddings and states of speech and text in one shared layer, and the compression of frames by CTC.

A network of such a task has in ``by_sample``, for each ``side`` (``speech``, ``text``, or ``source``, the text that a
translation is of) that it encodes, ``SIDE_embedding`` ``[batch, width]``, ``has_SIDE`` ``[batch]`` booleans, false
where the sample lacks it, and, if it gives them, ``SIDE_states`` ``[batch, positions, width]`` with ``SIDE_length``
``[batch]``.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.losses._ops import upcast

Side = Literal["speech", "text", "source"]
SIDES: Final = ("speech", "text", "source")


class Segments(NamedTuple):
    """Frames averaged by runs of one CTC class.

    Attributes:
        states: ``[batch, segments, width]``, zero beyond the segments of a sample.
        classes: ``[batch, segments]``, the class of each; the blank beyond.
        lengths: ``[batch]``, number of segments.
    """

    states: Tensor
    classes: Tensor
    lengths: Tensor


def ctc_compress(states: Tensor, logits: Tensor, lengths: Tensor, *, blank: int = 0) -> Segments:
    """The mean of the states of each run of frames with one most likely CTC class.

    Gaido, Cettolo, Negri & Turchi, EACL 2021, https://aclanthology.org/2021.eacl-main.57 (the average of section 3).
    Runs of the blank are segments too.

    Args:
        states: ``[batch, frames, width]``.
        logits: ``[batch, frames, classes]`` of the same frames; no gradient reaches them.
        lengths: ``[batch]``, valid frames.
        blank: index of the blank, the class of padding.

    Raises:
        LimbeckError: states and logits have different frames, or ``blank`` is none of the classes.

    >>> states = torch.tensor([[[1.0], [3.0], [5.0], [7.0]]])
    >>> ctc_compress(states, torch.eye(3)[None, [1, 1, 0, 2]], torch.tensor([4])).states
    tensor([[[2.],
             [5.],
             [7.]]])
    """
    if states.shape[:2] != logits.shape[:2] or not 0 <= blank < logits.shape[2]:
        raise LimbeckError(
            f"states and CTC logits must have the same frames and the blank must be a class, got "
            f"{list(states.shape[:2])}, {list(logits.shape)} and the blank {blank}"
        )
    states, path = upcast(states), logits.detach().argmax(dim=2)
    is_valid = torch.arange(path.shape[1], device=path.device) < lengths.to(path.device)[:, None]
    begins = is_valid.clone()
    begins[:, 1:] &= path[:, 1:] != path[:, :-1]
    counts = begins.sum(dim=1)
    num_segments = int(counts.max()) if counts.numel() else 0
    # Frames of the padding go to a further segment, which is cut off.
    index = torch.where(is_valid, begins.cumsum(dim=1) - 1, num_segments)
    sizes = states.new_zeros(len(states), num_segments + 1).scatter_add(1, index, torch.ones_like(index).to(states))
    sums = states.new_zeros(len(states), num_segments + 1, states.shape[2])
    sums = sums.scatter_add(1, index[:, :, None].expand_as(states), states)
    classes = torch.full_like(sizes, blank, dtype=path.dtype).scatter(1, index, path)
    means = sums[:, :-1] / sizes[:, :-1, None].clamp(min=1)
    is_segment = torch.arange(num_segments, device=path.device) < counts[:, None]
    return Segments(means, classes[:, :-1].masked_fill(~is_segment, blank), counts)


def mask_positions(lengths: Tensor, num_positions: int, device: torch.device) -> Tensor:
    """``[batch, positions]`` booleans, true before the length of each sample."""
    mask: Tensor = torch.arange(num_positions, device=device) < lengths.to(device)[:, None]
    return mask


def require_embedding(outputs: Outputs, side: str, loss_name: str) -> tuple[Tensor, Tensor]:
    """The embeddings ``[batch, width]`` of one side, and which samples have it, ``[batch]``."""
    embedding = _require(outputs, f"{side}_embedding", loss_name)
    mask = outputs.by_sample.get(f"has_{side}")
    return embedding, torch.ones(len(embedding), dtype=torch.bool, device=embedding.device) if mask is None else mask


def require_states(outputs: Outputs, side: str, loss_name: str) -> tuple[Tensor, Tensor]:
    """The states ``[batch, positions, width]`` of one side, and their number ``[batch]``."""
    return _require(outputs, f"{side}_states", loss_name), _require(outputs, f"{side}_length", loss_name)


def normalize_rows(embedding: Tensor) -> Tensor:
    """Length 1 along the last axis, in float32; zeros stay zero.

    >>> normalize_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    return F.normalize(upcast(embedding), dim=-1)


def require_side(name: str, value: str) -> None:
    """Raise an error where ``value`` is no side."""
    if value not in SIDES:
        raise LimbeckError(f"{name} must be speech, text or source, got {value!r}")


def _require(outputs: Outputs, name: str, loss_name: str) -> Tensor:
    if name not in outputs.by_sample:
        available = ", ".join(outputs.by_sample) or "none"
        raise LimbeckError(
            f"{loss_name} needs {name!r} of each sample, and the outputs have {available}: use SpeechTextAlignment and "
            "a network that gives it, and name one teacher"
        )
    return outputs.by_sample[name]
