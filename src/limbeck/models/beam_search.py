"""Beam search for encoder–decoder networks, in batches, with the keys and values of earlier tokens kept.

Of all prefixes of one length the ``num_beams`` most likely are continued. A finished sentence has the score
Σ log p / length^``length_penalty`` (Wu et al., 2016, https://arxiv.org/abs/1609.08144, with the penalty of fairseq and
transformers). The search of a sentence ends when ``num_beams`` sentences are finished and no prefix has a better score.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, Self, final, runtime_checkable

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.utils.logits import find_logits

__all__ = ["PADDING", "StepDecoder", "Translations", "UncachedDecoder", "beam_search"]

PADDING = -100
"""Token after the end of a sentence, as in targets."""
_MIN_SHRINK = 0.25
"""Fraction of finished sentences from which on they leave the batch."""


class SearchState(Protocol):
    """What a decoder keeps between steps."""

    def select(self, indices: Tensor) -> Self:
        """The samples at ``indices`` ``[n]``."""

    def select_target(self, indices: Tensor) -> Self:
        """The same where a sample is replaced only by one of the same source."""


@runtime_checkable
class StepDecoder(Protocol):
    """A network that is decoded one token at a time."""

    def start_decoding(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """The state before the first token."""

    def decode_step(self, token_ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The logits ``[batch, vocabulary]`` of the token after ``token_ids`` ``[batch]``, and the next state."""


class Translations(NamedTuple):
    """The best sentence of each source.

    Attributes:
        tokens: ``[batch, longest]``, with the end token where it was reached, and −100 after it.
        lengths: ``[batch]``, number of tokens.
        scores: ``[batch]``, Σ log p / length^penalty.
    """

    tokens: Tensor
    lengths: Tensor
    scores: Tensor


class _Beams(NamedTuple):
    """The search of the sentences that are not done.

    Attributes:
        rows: ``[n]``, their indices in the batch.
        scores: ``[n, beams]``, Σ log p of each prefix.
        tokens: ``[n, beams, steps]``.
        state: of the decoder, for ``n·beams`` samples.
    """

    rows: Tensor
    scores: Tensor
    tokens: Tensor
    state: Any


class _Finished(NamedTuple):
    """The finished sentences: ``[batch, beams, …]``, the best first."""

    scores: Tensor
    tokens: Tensor
    lengths: Tensor


@torch.no_grad()
def beam_search(
    network: nn.Module | StepDecoder, input_ids: Tensor, attention_mask: Tensor, *, start_id: int, end_id: int,
    num_beams: int = 4, max_tokens: int = 64, length_penalty: float = 1.0, prefix_ids: Tensor | None = None,
) -> Translations:  # fmt: skip
    """The translations of a batch.

    Args:
        network: a :class:`StepDecoder`, or a network called as
            ``network(input_ids=…, attention_mask=…, decoder_input_ids=…)``, which computes all tokens again in each
            step.
        input_ids: ``[batch, source tokens]``.
        attention_mask: of the same shape, 0 in padding.
        start_id: the token before the first.
        end_id: the token that ends a sentence.
        num_beams: prefixes of each sentence; 1 takes the most likely token in each step.
        max_tokens: a sentence of that length ends without the end token.
        length_penalty: above 0 for longer sentences.
        prefix_ids: ``[batch]``, the first token of each sentence where it is given, such as a language; its
            probability counts as 1. Below 0: none.

    Raises:
        LimbeckError: ``num_beams`` or ``max_tokens`` is below 1.
    """
    if num_beams < 1 or max_tokens < 1:
        raise LimbeckError(f"num_beams and max_tokens must be at least 1, got {num_beams} and {max_tokens}")
    decoder = network if isinstance(network, StepDecoder) else UncachedDecoder(network)
    batch_size, device = len(input_ids), input_ids.device
    rows = torch.arange(batch_size, device=device)
    state = decoder.start_decoding(input_ids, attention_mask)
    state = state.select(rows.repeat_interleave(num_beams)) if num_beams > 1 else state
    scores = torch.full((batch_size, num_beams), -torch.inf, device=device)
    scores[:, 0] = 0.0
    beams = _Beams(rows, scores, torch.empty(batch_size, num_beams, 0, dtype=torch.long, device=device), state)
    finished = _Finished(
        torch.full((batch_size, num_beams), -torch.inf, device=device),
        torch.full((batch_size, num_beams, max_tokens), PADDING, device=device),
        torch.zeros(batch_size, num_beams, dtype=torch.long, device=device),
    )
    for length in range(1, max_tokens + 1):
        if not len(beams.rows):
            break
        prefix = prefix_ids if length == 1 else None
        beams, is_done = _advance(decoder, beams, finished, (start_id, end_id), length_penalty, prefix)
        if length == max_tokens:
            scores = beams.scores.masked_fill(is_done[:, None], -torch.inf)
            _add_finished(finished, beams.rows, scores / length**length_penalty, beams.tokens)
        beams = _shrink(beams, is_done)
    lengths = finished.lengths[:, 0]
    longest = int(lengths.max()) if batch_size else 0
    return Translations(finished.tokens[:, 0, :longest], lengths, finished.scores[:, 0])


def _advance(
    decoder: StepDecoder, beams: _Beams, finished: _Finished, ids: tuple[int, int], length_penalty: float,
    prefix_ids: Tensor | None,
) -> tuple[_Beams, Tensor]:  # fmt: skip
    """One more token of each prefix; new finished sentences are added to ``finished``. Also which rows are done."""
    (count, num_beams, length), (start_id, end_id) = beams.tokens.shape, ids
    last = beams.tokens[:, :, -1] if length else torch.full_like(beams.scores, start_id, dtype=torch.long)
    logits, state = decoder.decode_step(last.flatten(), beams.state)
    log_p = logits.float().log_softmax(dim=1).reshape(count, num_beams, -1)
    if prefix_ids is not None:
        log_p = _force(log_p, prefix_ids.to(log_p.device))
    totals = (beams.scores[:, :, None] + log_p).flatten(1)
    scores, index = totals.topk(min(2 * num_beams, totals.shape[1]), dim=1)
    source, token = index // log_p.shape[2], index % log_p.shape[2]
    tokens = torch.cat([beams.tokens.gather(1, source[:, :, None].expand(-1, -1, length)), token[:, :, None]], dim=2)
    is_end, normalized = token == end_id, scores / (length + 1) ** length_penalty
    # A sentence that ends is kept only where its last token is among the most likely: with one beam, the most likely.
    ends = normalized.masked_fill(~is_end, -torch.inf)[:, :num_beams]
    _add_finished(finished, beams.rows, ends, tokens[:, :num_beams])
    kept_scores, kept = scores.masked_fill(is_end, -torch.inf).topk(num_beams, dim=1)
    # Prefixes beyond a small vocabulary have the score −inf, and any source.
    order = (torch.arange(count, device=index.device)[:, None] * num_beams + source.gather(1, kept)).flatten()
    tokens = tokens.gather(1, kept[:, :, None].expand(-1, -1, length + 1))
    best = kept_scores[:, 0] / (length + 1) ** length_penalty
    worst_finished = finished.scores[beams.rows, -1]
    is_done = (worst_finished > -torch.inf) & ((worst_finished >= best) | (num_beams == 1))
    return _Beams(beams.rows, kept_scores, tokens, state.select_target(order)), is_done | best.isneginf()


def _force(log_p: Tensor, token_ids: Tensor) -> Tensor:
    """``log_p`` ``[n, beams, vocabulary]`` with the probability 1 for ``token_ids`` ``[n]`` of at least 0."""
    is_token = torch.arange(log_p.shape[2], device=log_p.device) == token_ids[:, None]
    forced = torch.zeros_like(log_p).masked_fill(~is_token[:, None], -torch.inf)
    return torch.where((token_ids >= 0)[:, None, None], forced, log_p)


def _add_finished(finished: _Finished, rows: Tensor, scores: Tensor, tokens: Tensor) -> None:
    """Keep the best of ``finished`` and of the sentences ``tokens`` ``[n, k, length]`` with ``scores`` ``[n, k]``."""
    if bool(scores.isneginf().all()):
        return
    num_beams, length = finished.scores.shape[1], tokens.shape[2]
    padded = torch.full((*tokens.shape[:2], finished.tokens.shape[2]), PADDING, device=tokens.device)
    padded[:, :, :length] = tokens
    lengths = torch.full_like(scores, length, dtype=torch.long)
    all_scores = torch.cat([finished.scores[rows], scores], dim=1)
    best, index = all_scores.topk(num_beams, dim=1)
    all_tokens = torch.cat([finished.tokens[rows], padded], dim=1)
    finished.scores[rows] = best
    finished.tokens[rows] = all_tokens.gather(1, index[:, :, None].expand(-1, -1, all_tokens.shape[2]))
    finished.lengths[rows] = torch.cat([finished.lengths[rows], lengths], dim=1).gather(1, index)


def _shrink(beams: _Beams, is_done: Tensor) -> _Beams:
    """Without the sentences that are done, once they are many; a sentence that is done changes no more."""
    scores = beams.scores.masked_fill(is_done[:, None], -torch.inf)
    num_done = int(is_done.sum())
    if num_done < len(is_done) and num_done < _MIN_SHRINK * len(is_done):
        return beams._replace(scores=scores)
    kept, num_beams = (~is_done).nonzero()[:, 0], scores.shape[1]
    order = (kept[:, None] * num_beams + torch.arange(num_beams, device=kept.device)).flatten()
    return _Beams(beams.rows[kept], scores[kept], beams.tokens[kept], beams.state.select(order))


class _Prefixes(NamedTuple):
    """The state of :class:`UncachedDecoder`."""

    input_ids: Tensor
    attention_mask: Tensor
    tokens: Tensor

    def select(self, indices: Tensor) -> _Prefixes:
        return _Prefixes(*(tensor[indices] for tensor in self))

    def select_target(self, indices: Tensor) -> _Prefixes:
        return self._replace(tokens=self.tokens[indices])


@final
class UncachedDecoder:
    """Any network as a :class:`StepDecoder`; each step computes all tokens before it again.

    Args:
        network: called as ``network(input_ids=…, attention_mask=…, decoder_input_ids=…)``; returns logits
            ``[batch, target tokens, vocabulary]``.
    """

    def __init__(self, network: Any) -> None:
        self._network = network

    def start_decoding(self, input_ids: Tensor, attention_mask: Tensor) -> _Prefixes:
        return _Prefixes(input_ids, attention_mask, input_ids.new_empty(len(input_ids), 0))

    def decode_step(self, token_ids: Tensor, state: _Prefixes) -> tuple[Tensor, _Prefixes]:
        tokens = torch.cat([state.tokens, token_ids[:, None]], dim=1)
        logits = find_logits(
            self._network(input_ids=state.input_ids, attention_mask=state.attention_mask, decoder_input_ids=tokens)
        )
        if logits is None or logits.ndim != 3 or logits.shape[1] < tokens.shape[1]:
            got = None if logits is None else list(logits.shape)
            raise LimbeckError(
                f"logits of {type(self._network).__name__} must be [{len(tokens)}, {tokens.shape[1]}, vocabulary], got "
                f"{got}"
            )
        return logits[:, tokens.shape[1] - 1], state._replace(tokens=tokens)
