"""The most probable token sequences of a CTC network: prefix beam search, for all samples of a batch at once.

A prefix has the probability of all its paths, apart for those that end in the blank and those that do not (Hannun et
al., 2014, https://arxiv.org/abs/1408.2873, algorithm 1, without a language model).
"""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.limits import MAX_BATCH_SIZE
from limbeck.losses._ops import upcast


@final
class Hypotheses(NamedTuple):
    """Token sequences of each sample, the most probable first.

    Attributes:
        tokens: ``[batch, n, longest]``, padded by −1.
        lengths: ``[batch, n]``, number of tokens.
        log_p: ``[batch, n]``, the logarithm of the probability of each, −inf where there are fewer than n.
    """

    tokens: Tensor
    lengths: Tensor
    log_p: Tensor


@torch.no_grad()
def search_prefixes(
    logits: Tensor, lengths: Tensor, *, blank: int = 0, beam_size: int = 8, num_best: int = 1
) -> Hypotheses:
    """The ``num_best`` token sequences of each sample that the search finds.

    Args:
        logits: ``[batch, frames, classes]``.
        lengths: ``[batch]``, valid frames.
        blank: index of the blank.
        beam_size: prefixes that are kept after each frame; with as many as there are, the result is exact.
        num_best: at most ``beam_size``.

    Raises:
        LimbeckError: the sizes are out of range, or ``blank`` is no class.

    >>> import torch
    >>> found = search_prefixes(torch.zeros(1, 2, 2), torch.tensor([2]), num_best=2)  # 1: three paths of four
    >>> found.tokens.squeeze(2), found.log_p.exp()
    (tensor([[ 1, -1]]), tensor([[0.7500, 0.2500]]))
    """
    require_beam(beam_size, num_best)
    if not 0 <= blank < logits.shape[2]:
        raise LimbeckError(f"blank must be one of the {logits.shape[2]} classes, got {blank}")
    log_p, lengths = upcast(logits).log_softmax(dim=2), lengths.to(logits.device)
    beam = _Beam.empty(len(logits), beam_size, log_p)
    for frame in range(int(lengths.max()) if len(lengths) else 0):
        beam = beam.extend(log_p[:, frame], lengths > frame, blank)
    total = torch.logaddexp(beam.blank, beam.nonblank)
    best, order = total.topk(num_best, dim=1)
    counts = beam.counts.gather(1, order).masked_fill(best.isneginf(), 0)
    longest = max(1, int(counts.max())) if counts.numel() else 1
    tokens = beam.tokens.gather(1, order[:, :, None].expand(-1, -1, beam.tokens.shape[2]))
    if tokens.shape[2] < longest:
        tokens = torch.nn.functional.pad(tokens, (0, longest - tokens.shape[2]), value=-1)
    return Hypotheses(tokens[:, :, :longest], counts, best)


def require_beam(beam_size: int, num_best: int = 1) -> None:
    """Refuse sizes with which no search is possible."""
    if not 1 <= num_best <= beam_size <= MAX_BATCH_SIZE:
        raise LimbeckError(
            f"beam_size must be from 1 to {MAX_BATCH_SIZE:,} and the number of best sequences at most beam_size, got "
            f"{beam_size} and {num_best}"
        )


class _Beam(NamedTuple):
    """Prefixes ``[batch, beam]`` with their log-probabilities of paths that end in the blank, and in a token."""

    tokens: Tensor
    counts: Tensor
    blank: Tensor
    nonblank: Tensor

    @classmethod
    def empty(cls, batch: int, size: int, log_p: Tensor) -> _Beam:
        """The empty prefix of probability 1; the others have probability 0."""
        device = log_p.device
        impossible = torch.full((batch, size), -torch.inf, dtype=log_p.dtype, device=device)
        started = impossible.index_fill(1, torch.tensor([0], device=device), 0.0)
        counts = torch.zeros(batch, size, dtype=torch.long, device=device)
        tokens = torch.full((batch, size, log_p.shape[1] + 1), -1, dtype=torch.long, device=device)
        return cls(tokens, counts, started, impossible)

    def extend(self, log_p: Tensor, is_valid: Tensor, blank: int) -> _Beam:
        """The beam after a frame of ``log_p`` ``[batch, classes]``; unchanged where the frame is padding."""
        size, classes = self.counts.shape[1], log_p.shape[1]
        total = torch.logaddexp(self.blank, self.nonblank)
        last = self.tokens.gather(2, (self.counts - 1).clamp(min=0)[:, :, None]).squeeze(2)
        has_last, last_class = last >= 0, last.clamp(min=0)
        kept_blank = total + log_p[:, blank, None]
        kept_nonblank = (self.nonblank + log_p.gather(1, last_class)).masked_fill(~has_last, -torch.inf)
        # A token that repeats the last one extends only the paths that end in the blank.
        repeated = torch.where(has_last, self.blank, total) + log_p.gather(1, last_class)
        extended = (total[:, :, None] + log_p[:, None]).scatter(2, last_class[:, :, None], repeated[:, :, None])
        extended[:, :, blank] = -torch.inf
        # An extension of prefix i that is prefix j of the beam adds to j.
        parents = self.tokens.scatter(2, (self.counts - 1).clamp(min=0)[:, :, None], -1)
        is_parent = (self.tokens[:, :, None] == parents[:, None]).all(dim=3) & has_last[:, None]
        is_parent &= ~total.isneginf()[:, None]  # unused prefixes are all empty
        from_parent = extended.gather(2, last_class[:, None].expand(-1, size, -1))
        from_parent = from_parent.masked_fill(~is_parent, -torch.inf)
        kept_nonblank = torch.logaddexp(kept_nonblank, from_parent.logsumexp(dim=1))
        merged = torch.zeros_like(extended, dtype=torch.long)
        merged.scatter_add_(2, last_class[:, None].expand(-1, size, -1), is_parent.long())
        extended = extended.masked_fill(merged > 0, -torch.inf)
        candidates = torch.cat([torch.logaddexp(kept_blank, kept_nonblank), extended.flatten(1)], dim=1)
        chosen = candidates.topk(size, dim=1).indices
        is_extension = chosen >= size
        parent = torch.where(is_extension, (chosen - size).clamp(min=0) // classes, chosen)
        token = (chosen - size).clamp(min=0) % classes
        counts = self.counts.gather(1, parent)
        tokens = self.tokens.gather(1, parent[:, :, None].expand(-1, -1, self.tokens.shape[2]))
        slot = counts[:, :, None]
        tokens = tokens.scatter(
            2, slot, torch.where(is_extension, token, tokens.gather(2, slot).squeeze(2))[:, :, None]
        )
        new_nonblank = torch.where(is_extension, candidates.gather(1, chosen), kept_nonblank.gather(1, parent))
        after = _Beam(
            tokens, counts + is_extension, kept_blank.gather(1, parent).masked_fill(is_extension, -torch.inf),
            new_nonblank,
        )  # fmt: skip
        return _Beam(*(
            torch.where(is_valid.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(after, self, strict=True)
        ))  # fmt: skip
