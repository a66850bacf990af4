"""Settings of a cache: all logits or the largest k, half or full precision.

Logits are stored, not probabilities, so that the temperature may change. Shen & Xing, *A Fast Knowledge Distillation
Framework for Visual Recognition* (ECCV 2022, https://arxiv.org/abs/2112.01528) measure the effect of top-k.
"""

from __future__ import annotations

from typing import Any, final

from limbeck.utils.settings import CacheSettings
from limbeck.utils.validation import translate_errors

__all__ = ["CacheConfig"]


@final
class CacheConfig(CacheSettings):
    """How teacher outputs are stored; the settings are those of :class:`limbeck.utils.settings.CacheSettings`.

    One output takes ``4·k + 12`` bytes with ``top_k=k`` and up to 65,536 classes in float16 (``6·k`` for float32 or
    more classes, ``8·k`` for both), and ``2·classes + 8`` (``4·classes + 8``) dense, plus features. Eight of these
    bytes are checksums of the input and of the record.

    Raises:
        LimbeckError: if a value is out of range.

    >>> CacheConfig(top_k=10)
    CacheConfig(top_k=10, tail='spread', dtype='float16', feature_dtype='float16', pool_factor=1)
    """

    def __init__(self, **settings: Any) -> None:
        if settings.get("top_k") is not None and settings.get("tail") is None:
            settings["tail"] = "spread"
        with translate_errors("cache"):
            super().__init__(**settings)
