"""Settings of a cache: all logits or the largest k, half or full precision.

Logits are stored, not probabilities, so that the temperature may change. Shen & Xing, *A Fast Knowledge Distillation
Framework for Visual Recognition* (ECCV 2022, https://arxiv.org/abs/2112.01528) measure the effect of top-k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

from limbeck.core.errors import LimbeckError

__all__ = ["CacheConfig"]

Tail = Literal["spread", "renormalized"]
CacheDType = Literal["float16", "float32"]
FeatureDType = Literal["float16", "float32", "int8"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """How teacher outputs are stored.

    Args:
        top_k: number of largest logits of each row to store; ``None``: all (dense).
        tail: logits of the other classes, with ``top_k``: ``spread`` (default) distributes their total probability
            evenly (exact at temperature 1), ``renormalized`` gives them none.
        dtype: of logits, spatial logits and embeddings.
        feature_dtype: of features; ``int8`` has one scale for each sample, its largest magnitude over 127.
        pool_factor: average pooling of maps ``[channels, height, width]``. Features are returned pooled, spatial
            logits are resized bilinearly to their size.

    One output takes ``4·k + 12`` bytes with ``top_k=k`` and up to 65,536 classes in float16 (``6·k`` for float32 or
    more classes, ``8·k`` for both), and ``2·classes + 8`` (``4·classes + 8``) dense, plus features. Eight of these
    bytes are checksums of the input and of the record.

    >>> CacheConfig(top_k=10)
    CacheConfig(top_k=10, tail='spread', dtype='float16', feature_dtype='float16', pool_factor=1)
    """

    top_k: int | None = None
    tail: Tail | None = None
    dtype: CacheDType = "float16"
    feature_dtype: FeatureDType = "float16"
    pool_factor: int = 1

    def __post_init__(self) -> None:
        if self.top_k is None and self.tail is not None:
            raise LimbeckError(f"tail must be None without top_k, since all logits are stored, got {self.tail!r}")
        if self.top_k is not None and self.tail is None:
            object.__setattr__(self, "tail", "spread")
        for name, allowed in (("tail", Tail), ("dtype", CacheDType), ("feature_dtype", FeatureDType)):
            value = getattr(self, name)
            if value is not None and value not in get_args(allowed):
                raise LimbeckError(f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")
        for name, number in (("top_k", self.top_k), ("pool_factor", self.pool_factor)):
            if number is not None and number < 1:
                raise LimbeckError(f"{name} must be at least 1, got {number}")
