"""A small encoder–decoder transformer for translation in plain torch.

Pre-norm transformer blocks (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762; Xiong et al., 2020,
https://arxiv.org/abs/2002.04745) with fixed sine and cosine positions, and one embedding for source, target and output
(Press & Wolf, 2017, https://arxiv.org/abs/1608.05859). Padding of the source is masked, and a position of the target
reads only those before it, so the logits do not depend on padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.models.options import find_pairs, require_positive

__all__ = ["DecoderState", "Seq2SeqTransformer", "seq2seq_transformer"]

_MAX_PERIOD = 10_000.0


def seq2seq_transformer(
    *, width: int = 128, depth: int = 2, decoder_depth: int | None = None, num_heads: int = 4, mlp_ratio: int = 4,
    dropout: float = 0.1, max_tokens: int = 128, pairs: Sequence[str] = (), vocab_size: int = 4000,
    class_names: Sequence[str] = (),
) -> Seq2SeqTransformer:  # fmt: skip
    """An encoder of ``depth`` blocks and a decoder of ``decoder_depth`` blocks, with ``width`` channels.

    The parameters are ``vocab_size·(width + 1)`` in the embedding and the bias of the output,
    ``(4 + 2·mlp_ratio)·width² + (9 + mlp_ratio)·width`` in each block of the encoder,
    ``(8 + 2·mlp_ratio)·width² + (15 + mlp_ratio)·width`` in each block of the decoder, and ``4·width`` in the last
    norms.

    Args:
        width: channels; a multiple of 2 and of ``num_heads``.
        depth: blocks of the encoder.
        decoder_depth: blocks of the decoder; ``None``: ``depth``.
        num_heads: heads of each attention.
        mlp_ratio: channels inside the MLP by ``width``.
        dropout: of embeddings and of each block.
        max_tokens: the longest source or target.
        pairs: names of the language pairs that the network is trained on and, as a teacher, asked for, such as
            ``de-en``; empty: all.
        vocab_size: size of the vocabulary, a fact of the data.
        class_names: names of all language pairs, a fact of the data.

    >>> ids, mask = torch.tensor([[5, 7, 1]]), torch.tensor([[1, 1, 0]])
    >>> network = seq2seq_transformer(width=8, num_heads=2, vocab_size=10)
    >>> network(ids, mask, torch.tensor([[2, 4]])).shape
    torch.Size([1, 2, 10])
    """
    decoder_depth = depth if decoder_depth is None else decoder_depth
    return Seq2SeqTransformer(
        width, depth, decoder_depth, num_heads, mlp_ratio, dropout, max_tokens, vocab_size,
        pairs=find_pairs(pairs, class_names),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class DecoderState:
    """What the decoder keeps between steps: keys and values ``[batch, heads, tokens, width / heads]`` of each block.

    Attributes:
        source_mask: ``[batch, 1, 1, source tokens]`` booleans, false in padding.
        source: keys and values of the source, by block.
        target: keys and values of the target tokens so far, by block; empty before the first step.
    """

    source_mask: Tensor
    source: tuple[tuple[Tensor, Tensor], ...]
    target: tuple[tuple[Tensor, Tensor], ...] = ()

    @property
    def num_tokens(self) -> int:
        """Number of target tokens so far."""
        return self.target[0][0].shape[2] if self.target else 0

    def select(self, indices: Tensor) -> DecoderState:
        """The samples at ``indices`` ``[n]``, repeated where an index is."""

        def pick(blocks: tuple[tuple[Tensor, Tensor], ...]) -> tuple[tuple[Tensor, Tensor], ...]:
            return tuple((keys[indices], values[indices]) for keys, values in blocks)

        return DecoderState(self.source_mask[indices], pick(self.source), pick(self.target))

    def select_target(self, indices: Tensor) -> DecoderState:
        """:meth:`select` where a sample is replaced only by one of the same source, whose keys and values stay."""
        target = tuple((keys[indices], values[indices]) for keys, values in self.target)
        return DecoderState(self.source_mask, self.source, target)


@final
class Seq2SeqTransformer(nn.Module):
    """See :func:`seq2seq_transformer`. Called as ``network(input_ids, attention_mask, decoder_input_ids)``.

    It maps source ``[batch, source tokens]``, its mask, and target ``[batch, target tokens]`` to logits
    ``[batch, target tokens, vocabulary]`` of the next token. :meth:`start_decoding` and :meth:`decode_step` compute the
    same one token at a time. Feature layers: ``encoder.0`` …, ``encoder_norm``, ``decoder.0`` …, ``decoder_norm``.
    """

    def __init__(
        self, width: int, depth: int, decoder_depth: int, num_heads: int, mlp_ratio: int, dropout: float,
        max_tokens: int, vocab_size: int, *, pairs: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        require_positive(
            width=width, depth=depth, decoder_depth=decoder_depth, num_heads=num_heads, mlp_ratio=mlp_ratio,
            max_tokens=max_tokens, vocab_size=vocab_size,
        )  # fmt: skip
        if width % 2 or width % num_heads:
            raise LimbeckError(f"width must be a multiple of 2 and of the {num_heads} heads, got {width}")
        self.max_tokens, self.pairs = max_tokens, pairs
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.output_bias = nn.Parameter(torch.zeros(vocab_size))
        self.positions: Tensor
        self.register_buffer("positions", _sine_positions(max_tokens, width), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(_EncoderBlock(width, num_heads, mlp_ratio, dropout) for _ in range(depth))
        self.decoder = nn.ModuleList(_DecoderBlock(width, num_heads, mlp_ratio, dropout) for _ in range(decoder_depth))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """The logits of the token after each of ``decoder_input_ids``, ``[batch, target tokens, vocabulary]``."""
        return self.decode(decoder_input_ids, self.encode(input_ids, attention_mask), attention_mask)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The encoded source, ``[batch, source tokens, width]``."""
        return self.encode_states(self._embed(input_ids, 0), attention_mask)

    def encode_states(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """:meth:`encode` of states ``[batch, source positions, width]`` in place of embedded tokens."""
        mask = attention_mask.bool()[:, None, None, :]
        for block in self.encoder:
            hidden = block(hidden, mask)
        memory: Tensor = self.encoder_norm(hidden)
        return memory

    def decode(self, decoder_input_ids: Tensor, memory: Tensor, attention_mask: Tensor) -> Tensor:
        """:meth:`forward` of a source that is encoded already."""
        hidden, mask = self._embed(decoder_input_ids, 0), attention_mask.bool()[:, None, None, :]
        for block in self.decoder:
            hidden = block(hidden, memory, mask)
        return self._logits(hidden)

    def start_decoding(self, input_ids: Tensor, attention_mask: Tensor) -> DecoderState:
        """The state before the first target token."""
        return self.start_from_memory(self.encode(input_ids, attention_mask), attention_mask)

    def start_from_memory(self, memory: Tensor, attention_mask: Tensor) -> DecoderState:
        """:meth:`start_decoding` of a source that is encoded already."""
        source = tuple(block.cross_attention.keys_and_values(memory) for block in self._decoder_blocks())
        return DecoderState(attention_mask.bool()[:, None, None, :], source)

    def decode_step(self, token_ids: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """The logits ``[batch, vocabulary]`` of the token after ``token_ids`` ``[batch]``, and the next state."""
        hidden, target = self._embed(token_ids[:, None], state.num_tokens), list[tuple[Tensor, Tensor]]()
        for i, block in enumerate(self._decoder_blocks()):
            past = state.target[i] if state.target else None
            hidden, cache = block.step(hidden, state.source[i], state.source_mask, past)
            target.append(cache)
        return self._logits(hidden)[:, 0], DecoderState(state.source_mask, state.source, tuple(target))

    def _decoder_blocks(self) -> list[_DecoderBlock]:
        return [block for block in self.decoder if isinstance(block, _DecoderBlock)]

    def _embed(self, ids: Tensor, start: int) -> Tensor:
        end = start + ids.shape[1]
        if end > self.max_tokens:
            raise LimbeckError(
                f"sentences must have at most max_tokens {self.max_tokens} tokens, got {end}; cut them in the data, or "
                "set max_tokens of the network"
            )
        hidden: Tensor = self.dropout(self.embedding(ids) * self.positions.shape[1] ** 0.5 + self.positions[start:end])
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        return F.linear(self.decoder_norm(hidden), self.embedding.weight, self.output_bias)


@final
class _Attention(nn.Module):
    """Multi-head attention of queries to keys and values that may be computed before."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """``[batch, heads, tokens, width / heads]`` each."""
        # [batch, tokens, 2·width] → two of [batch, heads, tokens, width / heads]
        keys, values = self.key_value(tokens).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return keys, values

    def forward(
        self, tokens: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, *, is_causal: bool = False
    ) -> Tensor:
        queries = self.query(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        attention = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=is_causal)
        output: Tensor = self.proj(attention.transpose(1, 2).flatten(2))
        return output


def _make_mlp(width: int, ratio: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, ratio * width), nn.ReLU(), nn.Linear(ratio * width, width))


@final
class _EncoderBlock(nn.Module):
    """Attention to the source, and MLP."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = _Attention(width, num_heads), _make_mlp(width, mlp_ratio)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm1(hidden)
        hidden = hidden + self.dropout(self.attention(normed, *self.attention.keys_and_values(normed), mask))
        output: Tensor = hidden + self.dropout(self.mlp(self.norm2(hidden)))
        return output


@final
class _DecoderBlock(nn.Module):
    """Attention to the target so far, attention to the source, and MLP."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.cross_attention = _Attention(width, num_heads), _Attention(width, num_heads)
        self.mlp, self.dropout = _make_mlp(width, mlp_ratio), nn.Dropout(dropout)

    def forward(self, hidden: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm1(hidden)
        attention = self.attention(normed, *self.attention.keys_and_values(normed), is_causal=True)
        return self._read_source(hidden + self.dropout(attention), self.cross_attention.keys_and_values(memory), mask)

    def step(
        self, hidden: Tensor, source: tuple[Tensor, Tensor], mask: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One token ``[batch, 1, width]`` after those whose keys and values are ``past``; also with its own."""
        normed = self.norm1(hidden)
        keys, values = self.attention.keys_and_values(normed)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        hidden = hidden + self.dropout(self.attention(normed, keys, values))
        return self._read_source(hidden, source, mask), (keys, values)

    def _read_source(self, hidden: Tensor, source: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        hidden = hidden + self.dropout(self.cross_attention(self.norm2(hidden), *source, mask))
        output: Tensor = hidden + self.dropout(self.mlp(self.norm3(hidden)))
        return output


def _sine_positions(count: int, width: int) -> Tensor:
    """``[count, width]``: sines, then cosines, of the position at falling frequencies."""
    half = width // 2
    frequencies = _MAX_PERIOD ** (-torch.arange(half) / max(half - 1, 1))
    angles = torch.arange(count)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
