"""How a teacher's answers are written down: all classes or the largest few, in half or full precision.

Logits are kept, never probabilities, so the temperature may change later. What top-k costs and keeps is measured in
Shen & Xing, "A Fast Knowledge Distillation Framework" (ECCV 2022), https://arxiv.org/abs/2112.01528.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, final

from limbeck.core.errors import LimbeckError

__all__ = ["CacheConfig"]

Tail = Literal["spread", "renormalized"]
CacheDType = Literal["float16", "float32"]
FeatureDType = Literal["float16", "float32", "int8"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """How answers are written.

    Arguments:
        top_k: how many logits of each row to keep, the largest; ``None`` keeps all of them (dense).
        tail: what the other classes get back, with ``top_k``: ``spread`` shares the probability they had together evenly
            among them (exact at temperature 1); ``renormalized`` gives them none, so that the kept ones sum to 1.
            ``None``: spread.
        dtype: of logits, spatial logits and embeddings.
        feature_dtype: of tapped features; ``int8`` has one scale for each sample, its largest magnitude over 127.
        pool_factor: average-pool maps ``[channels, height, width]`` by this factor before they are written. Tapped features
            come back at that size; spatial logits are brought back to their own, bilinearly.

    One answer takes ``4·k + 12`` bytes with ``top_k=k`` and up to 65,536 classes in float16 (``6·k`` for float32 or for
    more classes, ``8·k`` for both), and ``2·classes + 8`` (``4·classes + 8``) dense; features come on top. Eight of
    these bytes are the stamp of the picture and the check sum.

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
            raise LimbeckError(f"tail is {self.tail!r}, and without `top_k` every logit is kept, so there is no tail")
        if self.top_k is not None and self.top_k < 1:
            raise LimbeckError(f"top_k is how many logits of each row to keep, at least 1, not {self.top_k}")
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                options = ", ".join(map(str, filter(None, allowed)))
                raise LimbeckError(f"{name} is one of {options}, not {getattr(self, name)!r}")
        if self.pool_factor < 1:
            raise LimbeckError(f"pool_factor is a factor of at least 1, not {self.pool_factor}")
        if self.top_k is not None and self.tail is None:
            object.__setattr__(self, "tail", "spread")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data, for the key and the index."""
        return asdict(self)


_ALLOWED = {
    "tail": (None, "spread", "renormalized"),
    "dtype": ("float16", "float32"),
    "feature_dtype": ("float16", "float32", "int8"),
}
