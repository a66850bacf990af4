"""What a cache stores of a teacher: the logits by sample, and its translations after the rows of the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.core.outputs import Outputs
from limbeck.tasks.translation import rows
from limbeck.tasks.translation.hypotheses import require_own_hypotheses

__all__ = ["decode", "encode"]


def encode(outputs: Outputs, batch: Any) -> dict[str, Tensor]:
    """The logits by sample, with the teacher's own translations."""
    logits, lengths = outputs.by_sample[rows.LOGITS], rows.get_target(batch).lengths
    own = rows.find_hypothesis(outputs.by_sample)
    if own is None:
        return {"logits": logits, "length": lengths}
    lengths, position = lengths.to(logits.device), torch.arange(logits.shape[1], device=logits.device)
    # In the rows of the logits, after those of the target.
    index = (position - lengths[:, None]).clamp(0, max(0, own.tokens.shape[1] - 1))
    tokens = own.tokens.gather(1, index) if own.tokens.shape[1] else torch.full_like(index, -100)
    both = {rows.HYPOTHESIS: tokens, rows.HYPOTHESIS_LENGTH: own.lengths}
    return {"logits": logits, **both, "length": lengths + own.lengths}


def decode(stored: Mapping[str, Tensor], batch: Any) -> Outputs:
    """The outputs again, with the rows of this batch."""
    target, hypothesis = rows.get_target(batch), rows.find_hypothesis(batch)
    by_sample = {rows.LOGITS: stored["logits"]}
    if rows.HYPOTHESIS in stored:
        tokens, lengths = stored[rows.HYPOTHESIS], stored[rows.HYPOTHESIS_LENGTH]
        position = torch.arange(int(lengths.max()) if len(lengths) else 0, device=tokens.device)
        index = target.lengths.to(tokens.device)[:, None] + position
        own = tokens.gather(1, index.clamp(max=max(0, tokens.shape[1] - 1))) if tokens.shape[1] else tokens
        by_sample |= {rows.HYPOTHESIS: own, rows.HYPOTHESIS_LENGTH: lengths}
    if hypothesis is not None:
        require_own_hypotheses(rows.find_hypothesis(by_sample), hypothesis)
    logits = rows.select_rows(stored["logits"], target, hypothesis)
    return rows.join_rows(logits, batch, by_sample=by_sample)
