"""Translations of teachers as targets: made by beam search, joined, and decoded together with the targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.models.beam_search import PADDING
from limbeck.tasks.translation.decoding import translate
from limbeck.tasks.translation.rows import (
    HYPOTHESIS,
    HYPOTHESIS_LENGTH,
    Sentences,
    call_network,
    check_logits,
    find_hypothesis,
    shift_right,
)

__all__ = ["decode_sentences", "encode_source", "merge_hypotheses", "require_own_hypotheses", "search_hypotheses"]


@runtime_checkable
class DecodesFromMemory(Protocol):
    """A network whose source is encoded once for several targets."""

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The encoded source ``[batch, source tokens, width]``."""

    def decode(self, decoder_input_ids: Tensor, memory: Tensor, attention_mask: Tensor) -> Tensor:
        """The logits ``[batch, target tokens, vocabulary]``."""

    def start_from_memory(self, memory: Tensor, attention_mask: Tensor) -> Any:
        """The state before the first target token of :func:`~limbeck.models.beam_search.beam_search`."""


def encode_source(network: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """The encoded source ``[batch, source tokens, width]`` of a network that can decode from it, else ``None``."""
    if not isinstance(network, DecodesFromMemory):
        return None
    return network.encode(inputs["input_ids"], inputs["attention_mask"])


def decode_sentences(
    network: nn.Module, inputs: Mapping[str, Tensor], memory: Tensor | None, sentences: Sentences, *, vocab_size: int,
    start_id: int, samples: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Logits ``[batch, tokens, vocabulary]`` of the tokens of ``sentences``.

    Args:
        network: the network.
        inputs: ``input_ids`` and ``attention_mask``.
        memory: of :func:`encode_source`; ``None``: the network is called as a whole.
        sentences: whose tokens are predicted.
        vocab_size: number of tokens.
        start_id: the token before the first.
        samples: ``[n]``, the samples to decode; ``None``: all.
    """
    tokens = sentences.tokens if samples is None else sentences.tokens[samples]
    decoder_input_ids = shift_right(tokens, start_id)
    source = {
        name: inputs[name] if samples is None else inputs[name][samples] for name in ("input_ids", "attention_mask")
    }
    if memory is None or not isinstance(network, DecodesFromMemory):
        return call_network(network, {**source, "decoder_input_ids": decoder_input_ids}, vocab_size)
    memory = memory if samples is None else memory[samples]
    output = network.decode(decoder_input_ids, memory, source["attention_mask"])
    return check_logits(output, network, decoder_input_ids.shape, vocab_size)


def search_hypotheses(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    memory: Tensor | None,
    *,
    prefix_ids: Tensor | None,
    **options: Any,
) -> dict[str, Tensor]:
    """The translations of ``network``, as fields of a batch.

    Args:
        network: a teacher.
        inputs: ``input_ids`` and ``attention_mask``.
        memory: of :func:`encode_source`.
        prefix_ids: first token of each translation, or ``None``.
        options: of :func:`~limbeck.models.beam_search.beam_search`.
    """
    found = translate(
        network, inputs["input_ids"], inputs["attention_mask"], memory=memory, prefix_ids=prefix_ids, **options
    )
    return {HYPOTHESIS: found.tokens, HYPOTHESIS_LENGTH: found.lengths}


def merge_hypotheses(batch: Mapping[str, Any], outputs: Mapping[str, Outputs]) -> dict[str, Any]:
    """``batch`` with the translation of each sample by the teacher that has one; unchanged where none has any.

    Raises:
        LimbeckError: two teachers have a translation of one sample.
    """
    device, merged = batch["input_ids"].device, None
    owners: list[str | None] = [None] * len(batch["input_ids"])
    for name, output in outputs.items():
        own = find_hypothesis(output.by_sample)
        if own is None:
            continue
        tokens, has_own = own.tokens.to(device), own.is_row.any(dim=1).to(device)
        has_own = has_own if output.valid is None else has_own & output.valid.to(device)
        for i in has_own.nonzero()[:, 0].tolist():
            if owners[i] is not None:
                raise LimbeckError(
                    f"each sample must be translated by one teacher, got {owners[i]} and {name}: set pairs of the "
                    "teachers, so that one is for each language pair"
                )
            owners[i] = name
        tokens = tokens.masked_fill(~has_own[:, None], PADDING)
        merged = tokens if merged is None else _overlay(merged, tokens)
    if merged is None:
        return dict(batch)
    return {**batch, HYPOTHESIS: merged, HYPOTHESIS_LENGTH: (merged != PADDING).sum(dim=1)}


def _overlay(first: Tensor, second: Tensor) -> Tensor:
    """The tokens of ``first``, and those of ``second`` in samples where ``first`` has none."""
    longest = max(first.shape[1], second.shape[1])
    first, second = (nn.functional.pad(t, (0, longest - t.shape[1]), value=PADDING) for t in (first, second))
    return torch.where((first != PADDING).any(dim=1, keepdim=True), first, second)


def require_own_hypotheses(own: Sentences | None, hypothesis: Sentences) -> None:
    """Raise an error where a cached teacher's translations are not those of the batch, whose logits it has not."""
    if own is None:
        raise LimbeckError("the cache holds no translations of this teacher: fill it with hypothesis_beams set")
    tokens, expected = own.tokens, hypothesis.tokens.to(own.tokens.device)
    longest = max(tokens.shape[1], expected.shape[1])
    tokens, expected = (nn.functional.pad(t, (0, longest - t.shape[1]), value=PADDING) for t in (tokens, expected))
    differs = (tokens != expected).any(dim=1) & own.is_row.any(dim=1).to(tokens.device)
    if bool(differs.any()):
        raise LimbeckError(
            "a cached teacher has logits of its own translations only, and the batch has others: set pairs of the "
            "teachers, so that one is for each language pair, or remove the cache"
        )
