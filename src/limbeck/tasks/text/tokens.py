"""The text of a batch of tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor

__all__ = ["join_tokens"]

_SPECIAL: Final = re.compile(r"\[(CLS|SEP|PAD|MASK)\] ?")


def join_tokens(batch: Mapping[str, Tensor], vocabulary: Sequence[str] | None) -> list[str]:
    """The tokens of each text, without those that begin and end it; their ids where the data has no vocabulary."""
    texts = []
    for ids, mask in zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True):
        tokens = [token for token, is_token in zip(ids, mask, strict=True) if is_token]
        # Word pieces that continue a word begin with ##, as in BERT.
        text = " ".join(vocabulary[token] if vocabulary else str(token) for token in tokens).replace(" ##", "")
        texts.append(_SPECIAL.sub("", text).strip() or text)
    return texts
