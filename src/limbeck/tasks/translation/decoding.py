"""Translations of a batch by beam search, also of networks with a search of their own."""

from __future__ import annotations

from typing import Any, Final, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.models.beam_search import PADDING, StepDecoder, Translations, UncachedDecoder, beam_search

__all__ = ["MAX_SENTENCES", "translate"]

MAX_SENTENCES: Final = 128
"""Sentences that are translated at once; more are sorted by length first."""


def translate(
    network: nn.Module, input_ids: Tensor, attention_mask: Tensor, *, memory: Tensor | None = None,
    prefix_ids: Tensor | None = None, vocab_size: int | None = None, **options: Any,
) -> Translations:  # fmt: skip
    """The best translation of each source, by :func:`~limbeck.models.beam_search.beam_search`.

    Args:
        network: with a method ``translate`` of the same arguments it is that; else see ``beam_search``.
        input_ids: ``[batch, source tokens]``.
        attention_mask: of the same shape.
        memory: the encoded source, where ``network`` has ``start_from_memory``; ``None``: it is encoded.
        prefix_ids: see ``beam_search``.
        vocab_size: number of tokens; those beyond it, to which some networks round up, are never chosen.
        options: of ``beam_search``.

    Raises:
        LimbeckError: a translation of ``network`` itself has a token beyond ``vocab_size``.
    """
    search = getattr(network, "translate", None)
    count = len(input_ids)
    by_length = torch.arange(count) if count <= MAX_SENTENCES else attention_mask.sum(dim=1).cpu().argsort(stable=True)
    parts = list[Translations]()
    for indices in torch.split(by_length.to(input_ids.device), MAX_SENTENCES):
        mask = attention_mask[indices]
        longest = int(mask.sum(dim=1).max())
        is_padded_at_end = not bool(mask[:, longest:].any())
        width = longest if is_padded_at_end and memory is None else mask.shape[1]
        sources, mask = input_ids[indices, :width], mask[:, :width]
        prefix = None if prefix_ids is None else prefix_ids[indices]
        if search is not None:
            parts.append(_require_tokens(search(sources, mask, prefix_ids=prefix, **options), network, vocab_size))
            continue
        decoder: Any = network if memory is None else _FromMemory(network, memory[indices])
        if vocab_size is not None:
            decoder = _Limited(decoder, vocab_size)
        parts.append(beam_search(decoder, sources, mask, prefix_ids=prefix, **options))
    if len(parts) == 1:
        return parts[0]
    order = by_length.argsort().to(input_ids.device)
    lengths, scores = (torch.cat([part[i] for part in parts])[order] for i in (1, 2))
    tokens = torch.full((count, max(part.tokens.shape[1] for part in parts)), PADDING, device=input_ids.device)
    for indices, part in zip(torch.split(by_length, MAX_SENTENCES), parts, strict=True):
        tokens[indices.to(tokens.device), : part.tokens.shape[1]] = part.tokens
    return Translations(tokens, lengths, scores)


@final
class _FromMemory(StepDecoder):
    """A decoder whose source is encoded already, so that hooks of the encoder run once."""

    def __init__(self, network: Any, memory: Tensor) -> None:
        self._network, self._memory = network, memory

    def start_decoding(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self._network.start_from_memory(self._memory, attention_mask)

    def decode_step(self, token_ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        result: tuple[Tensor, Any] = self._network.decode_step(token_ids, state)
        return result


@final
class _Limited(StepDecoder):
    """A decoder without the logits of tokens beyond ``vocab_size``."""

    def __init__(self, decoder: Any, vocab_size: int) -> None:
        self._decoder = decoder if isinstance(decoder, StepDecoder) else UncachedDecoder(decoder)
        self._vocab_size = vocab_size

    def start_decoding(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self._decoder.start_decoding(input_ids, attention_mask)

    def decode_step(self, token_ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = self._decoder.decode_step(token_ids, state)
        return logits[:, : self._vocab_size], state


def _require_tokens(translations: Translations, network: nn.Module, vocab_size: int | None) -> Translations:
    if vocab_size is not None and translations.tokens.numel() and int(translations.tokens.max()) >= vocab_size:
        raise LimbeckError(
            f"translate of {type(network).__name__} must return tokens below {vocab_size}, got "
            f"{int(translations.tokens.max())}: set vocab_size of the task to that of the network"
        )
    return translations
