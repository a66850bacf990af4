"""The fields of a batch of speech and text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["label_texts", "read_texts", "require_fields"]

_FIELDS = ("input", "input_length", "input_ids", "attention_mask")
_MULTIPLIER = 6364136223846793005  # of Knuth's MMIX generator, odd, so powers modulo 2^64 differ
_BITS = 52  # a label is exact in float64


def require_fields(batch: Any) -> None:
    """Refuse a batch without one of the four inputs, or with padding before tokens."""
    missing = [name for name in _FIELDS if not isinstance(batch, Mapping) or name not in batch]
    if missing:
        got = sorted(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
        raise LimbeckError(f"a batch must be a mapping with {', '.join(_FIELDS)}, got {got}")
    mask = batch["attention_mask"]
    if mask.is_cpu and bool((mask[:, 1:] > mask[:, :-1]).any()):
        raise LimbeckError("attention_mask must be 1 for tokens and then 0: pad texts on the right")


def label_texts(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """A number in 0..2^52 for each text ``[batch]``, a hash of its tokens: equal for equal texts.

    >>> ids = torch.tensor([[5, 6, 0], [5, 6, 9], [6, 5, 0]])
    >>> first, second, third = label_texts(ids, torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 0]])).tolist()
    >>> first == second, first == third
    (True, False)
    """
    powers = torch.full((input_ids.shape[1],), _MULTIPLIER, device=input_ids.device).cumprod(dim=0)
    values = (input_ids.long() + 1) * attention_mask.bool() * powers
    hashes = values.sum(dim=1)
    # The low bits depend on the low bits of the tokens only.
    hashes = (hashes ^ (hashes >> 29)) * _MULTIPLIER
    return (hashes >> (64 - _BITS)) & ((1 << _BITS) - 1)


def read_texts(batch: Mapping[str, Any]) -> list[str]:
    """The text of each sample; its token ids where the batch has none."""
    texts = batch.get("text")
    if isinstance(texts, Tensor):
        rows = zip(texts.tolist(), batch["text_length"].tolist(), strict=True)
        return ["".join(map(chr, codes[:length])) for codes, length in rows]
    if texts is not None:
        return [str(text) for text in texts]
    rows = zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True)
    return [" ".join(str(token) for token, keep in zip(ids, mask, strict=True) if keep) for ids, mask in rows]
