"""Connectionist temporal classification (CTC): token sequences without an alignment to frames.

Graves et al., ICML 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf. With p_t the softmax of frame t and B the
map that merges repeats and removes blanks, the loss of one sample is −log Σ_{π: B(π) = target} Π_t p_t(π_t).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.losses._ops import upcast


def ctc_loss(
    logits: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor, *, blank: int = 0,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:  # fmt: skip
    """Mean over the samples with a target of the CTC loss divided by the number of tokens, in nats.

    Args:
        logits: ``[batch, frames, classes]``.
        lengths: ``[batch]``, valid frames of each sample.
        tokens: ``[batch, longest target]`` class indices, padded by any value.
        token_lengths: ``[batch]``; below 0 is no target. The loss of an empty target is divided by 1.
        blank: index of the blank.
        reduction: ``"none"`` returns the loss of each sample in nats, ``[batch]``, zero without a target.

    Raises:
        LimbeckError: a target that needs more frames than the sample has (its loss would be infinite).

    >>> import torch
    >>> logits = torch.zeros(1, 2, 3)  # 2 frames; the paths of the target "1" are (1, 1), (1, 0) and (0, 1)
    >>> ctc_loss(logits, torch.tensor([2]), torch.tensor([[1]]), torch.tensor([1]))  # -log(3 / 9)
    tensor(1.0986)
    """
    has_target = token_lengths >= 0
    lengths, token_lengths = lengths.to(logits.device), token_lengths.to(logits.device).clamp(min=0)
    tokens = tokens.to(logits.device)
    if logits.is_cpu:
        _require_enough_frames(lengths, tokens, token_lengths)
    log_p = upcast(logits).log_softmax(dim=2).transpose(0, 1)
    # Padding may be −100, which is no class; only the first `token_lengths` are read.
    losses = F.ctc_loss(log_p, tokens.clamp(min=0), lengths, token_lengths, blank=blank, reduction="none")
    losses = losses.where(has_target.to(losses.device), 0.0)
    if reduction == "none":
        return losses
    return (losses / token_lengths.clamp(min=1)).sum() / has_target.sum().clamp(min=1)


def emitting_frames(path: Tensor, lengths: Tensor, *, blank: int = 0) -> Tensor:
    """Which frames of ``path`` ``[batch, frames]`` begin a token: no blank, no repeat, no padding.

    >>> import torch
    >>> emitting_frames(torch.tensor([[1, 1, 0, 1, 2]]), torch.tensor([4]))
    tensor([[ True, False, False,  True, False]])
    """
    is_token = path != blank
    is_token[:, 1:] &= path[:, 1:] != path[:, :-1]
    return is_token & (torch.arange(path.shape[1], device=path.device) < lengths.to(path.device)[:, None])


def decode_best_path(logits: Tensor, lengths: Tensor, *, blank: int = 0) -> tuple[Tensor, Tensor]:
    """The tokens of the best path of each sample: repeats merged, then blanks removed.

    Args:
        logits: ``[batch, frames, classes]``.
        lengths: ``[batch]``, valid frames.
        blank: index of the blank.

    Returns:
        ``[batch, frames]`` tokens, padded by the blank, and their number ``[batch]``.

    >>> import torch
    >>> decode_best_path(torch.eye(3)[None, [1, 1, 0, 1, 2]], torch.tensor([5]))
    (tensor([[1, 1, 2, 0, 0]]), tensor([3]))
    """
    path = logits.argmax(dim=2)
    is_token = emitting_frames(path, lengths, blank=blank)
    order = (~is_token).to(torch.int8).argsort(dim=1, stable=True)
    counts = is_token.sum(dim=1)
    tokens = path.gather(1, order)
    is_padding = torch.arange(path.shape[1], device=path.device) >= counts[:, None]
    return tokens.masked_fill(is_padding, blank), counts


def require_frames(outputs: Outputs, loss_name: str) -> tuple[Tensor, Tensor]:
    """The logits ``[batch, frames, classes]`` of a network's own frames, and their number ``[batch]``."""
    by_sample = outputs.by_sample
    if "frame_logits" not in by_sample or "frame_length" not in by_sample:
        raise LimbeckError(
            f"{loss_name} needs the frames of each sample, and the outputs have "
            f"{', '.join(by_sample) or 'none'}: use a task such as SpeechCTC, and name one teacher"
        )
    return by_sample["frame_logits"], by_sample["frame_length"]


def count_min_frames(tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """The frames ``[batch]`` that a path needs: one for each token, and one for the blank between equal neighbors.

    >>> import torch
    >>> count_min_frames(torch.tensor([[1, 1, 2]]), torch.tensor([3]))
    tensor([4])
    """
    is_token = (tokens.new_ones(tokens.shape).cumsum(dim=1) <= token_lengths[:, None])[:, 1:]
    return token_lengths + ((tokens[:, 1:] == tokens[:, :-1]) & is_token).sum(dim=1)


def _require_enough_frames(lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> None:
    needed = count_min_frames(tokens, token_lengths)
    too_short = (needed > lengths).nonzero().flatten().tolist()
    if too_short:
        i = too_short[0]
        raise LimbeckError(
            f"a target must not need more frames than the sample has: sample {i} of the batch has {int(lengths[i])} "
            f"frames and a target of {int(token_lengths[i])} tokens that needs {int(needed[i])}; use a network with a "
            "smaller stride, or remove the sample"
        )
