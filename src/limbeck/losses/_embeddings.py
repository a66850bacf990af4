"""Embeddings of whole samples in losses, and their similarities."""

from __future__ import annotations

from typing import Final, Literal

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.losses._alignment import normalize_rows
from limbeck.losses._ops import upcast

Similarity = Literal["cosine", "dot"]
_SIMILARITIES: Final = ("cosine", "dot")


def sample_embedding(outputs: Outputs, loss: str) -> Tensor:
    """The embedding ``[batch, width]`` of ``outputs``; an error that names ``loss`` where there is none."""
    if outputs.embedding is None:
        raise LimbeckError(
            f"{loss} needs an embedding of each sample, and the network has none: use a task of embeddings, such as "
            "SentenceEmbedding"
        )
    return outputs.embedding


def similarity_matrix(embedding: Tensor, similarity: Similarity) -> Tensor:
    """Cosines or products of all pairs of ``[batch, width]``, ``[batch, batch]``, at least in float32."""
    rows = normalize_rows(embedding) if similarity == "cosine" else upcast(embedding)
    return rows @ rows.mT


def require_similarity(similarity: str) -> None:
    """Raise an error for an unknown name."""
    if similarity not in _SIMILARITIES:
        raise LimbeckError(f"similarity must be cosine or dot, got {similarity!r}")
