"""A small transformer encoder for text classification in plain torch.

Pre-norm transformer blocks (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762; Xiong et al., 2020,
https://arxiv.org/abs/2002.04745) on learned token and position embeddings, with mean pooling over the tokens.
Padding is masked in attention and pooling, so the logits do not depend on it. Without blocks it is a bag of words, as
fastText (Joulin et al., 2017, https://arxiv.org/abs/1607.01759).
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.models.options import require_positive

__all__ = ["TextEncoder", "text_encoder"]


def text_encoder(
    *, width: int = 64, depth: int = 2, num_heads: int = 4, max_tokens: int = 512, dropout: float = 0.1,
    classes: int = 2, vocab_size: int = 30522,
) -> TextEncoder:  # fmt: skip
    """``depth`` blocks of ``num_heads`` heads and ``width`` channels; ``depth`` 0 averages embeddings.

    The parameters are ``vocab_size·width`` in the embedding, ``max_tokens·width`` in the positions (none at depth 0),
    ``12·width² + 13·width`` in each block, ``2·width`` in the last norm and ``(width + 1)·classes`` in ``fc``.

    >>> import torch
    >>> ids, mask = torch.tensor([[5, 7, 0]]), torch.tensor([[1, 1, 0]])
    >>> text_encoder(width=8, num_heads=2, classes=3, vocab_size=10)(ids, mask).shape
    torch.Size([1, 3])
    """
    return TextEncoder(width, depth, num_heads, max_tokens, dropout, classes, vocab_size)


@final
class TextEncoder(nn.Module):
    """See :func:`text_encoder`. Maps ``input_ids`` and ``attention_mask`` ``[batch, tokens]`` to ``[batch, classes]``.

    Feature layers: ``embedding`` and ``block1`` ... ``blockN``, ``[batch, tokens, width]``; ``norm``, the pooled
    ``[batch, width]``.
    """

    def __init__(
        self, width: int, depth: int, num_heads: int, max_tokens: int, dropout: float, classes: int, vocab_size: int
    ) -> None:
        super().__init__()
        require_positive(
            width=width, num_heads=num_heads, max_tokens=max_tokens, classes=classes, vocab_size=vocab_size
        )
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
            raise LimbeckError(f"depth must be an integer of at least 0, got {depth!r}")
        if width % num_heads:
            raise LimbeckError(f"width must be a multiple of the {num_heads} heads, got {width}")
        self.max_tokens = max_tokens
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.positions = nn.Embedding(max_tokens, width) if depth else None
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.1 * width**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.block_names = tuple(f"block{i}" for i in range(1, depth + 1))
        for name in self.block_names:
            self.add_module(name, _Block(width, num_heads, dropout))
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``."""
        tokens = self.encode(input_ids, attention_mask)
        weights = attention_mask.bool().to(tokens.dtype)[:, :, None]
        pooled = (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        logits: Tensor = self.fc(self.norm(pooled))
        return logits

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The states of the tokens before pooling, ``[batch, tokens, width]``."""
        tokens: Tensor = self.embedding(input_ids)
        if self.positions is not None:
            if input_ids.shape[1] > self.max_tokens:
                raise LimbeckError(
                    f"texts must have at most max_tokens {self.max_tokens} tokens, got {input_ids.shape[1]}; truncate "
                    "them in the data, or set max_tokens"
                )
            tokens = tokens + self.positions.weight[: input_ids.shape[1]]
        tokens, is_token = self.dropout(tokens), attention_mask.bool()
        for name in self.block_names:
            tokens = self.get_submodule(name)(tokens, is_token)
        return tokens


@final
class _Block(nn.Module):
    """Pre-norm transformer block: attention to the tokens that are no padding, and MLP."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor, is_token: Tensor) -> Tensor:
        # [batch, tokens, 3·width] → three of [batch, heads, tokens, width / heads]
        qkv = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = is_token[:, None, None, :]
        attention = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=mask).transpose(1, 2).flatten(2)
        tokens = tokens + self.dropout(self.proj(attention))
        output: Tensor = tokens + self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(tokens)))))
        return output
