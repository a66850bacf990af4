"""From padded sentences to rows: a row is a token to be predicted.

The rows of a batch are the tokens of the targets, then those of a teacher's translations. Logits by sample are
``[batch, tokens, vocabulary]``: for each sample those of its target, then those of its translation, then padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.models.beam_search import PADDING
from limbeck.utils.logits import find_logits

__all__ = [
    "HYPOTHESIS", "HYPOTHESIS_LENGTH", "LOGITS", "Sentences", "call_network", "check_logits", "covered_samples",
    "find_hypothesis", "get_target", "join_rows", "pack", "select_rows", "shift_right",
]  # fmt: skip

HYPOTHESIS: Final = "hypothesis"
"""Tokens of a teacher's translations, in batches and in its outputs by sample."""
HYPOTHESIS_LENGTH: Final = "hypothesis_length"
LOGITS: Final = "token_logits"
"""Logits by sample in the outputs of a teacher."""
_SOURCE: Final = ("input_ids", "attention_mask", HYPOTHESIS_LENGTH)


@final
class Sentences(NamedTuple):
    """Padded sentences.

    Attributes:
        tokens: ``[batch, tokens]``, −100 in padding.
        is_row: ``[batch, tokens]`` booleans, the tokens that are rows.
    """

    tokens: Tensor
    is_row: Tensor

    @property
    def lengths(self) -> Tensor:
        """``[batch]``, number of tokens, whether they are rows or not."""
        return (self.tokens != PADDING).sum(dim=1)


def get_target(batch: Any) -> Sentences:
    """The target of each sample; a sample without one, or whose target is hidden, has no row.

    Raises:
        LimbeckError: the batch lacks a field, or the target is no ``[batch, tokens]`` integers.
    """
    is_batch = isinstance(batch, Mapping) and {"input_ids", "attention_mask"} <= batch.keys()
    tokens = batch.get("target", batch.get("labels")) if is_batch else None
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
        got = sorted(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
        raise LimbeckError(
            "a batch must be a mapping with input_ids, attention_mask and target (or labels), [batch, tokens] integers "
            f"with −100 in padding, got {got}"
        )
    is_row = tokens != PADDING
    if (lengths := batch.get("target_length")) is not None:
        is_row = is_row & (lengths.to(tokens.device) >= 0)[:, None]
    return Sentences(tokens, is_row)


def find_hypothesis(values: Mapping[str, Tensor]) -> Sentences | None:
    """A teacher's translations in a batch or in outputs by sample; ``None`` where there are none."""
    if HYPOTHESIS not in values:
        return None
    tokens, lengths = values[HYPOTHESIS], values[HYPOTHESIS_LENGTH]
    is_row = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    return Sentences(tokens.masked_fill(~is_row, PADDING), is_row)


def shift_right(tokens: Tensor, start_id: int) -> Tensor:
    """The tokens before each of ``tokens`` ``[batch, tokens]``, of at least one column; the start in padding.

    >>> shift_right(torch.tensor([[5, 6, 2], [7, 2, -100]]), 1)
    tensor([[1, 5, 6],
            [1, 7, 2]])
    """
    before = F.pad(tokens, (1, 0), value=start_id)[:, : max(1, tokens.shape[1])]
    return before.masked_fill(before == PADDING, start_id)


def call_network(network: nn.Module, inputs: Mapping[str, Tensor], vocab_size: int) -> Tensor:
    """Logits ``[batch, tokens, vocabulary]`` of the token after each of ``decoder_input_ids`` of ``inputs``."""
    output = network(**inputs)
    return check_logits(output, network, inputs["decoder_input_ids"].shape, vocab_size)


def check_logits(output: Any, network: nn.Module, shape: torch.Size, vocab_size: int) -> Tensor:
    """The logits in ``output`` without the tokens beyond ``vocab_size``, to which some networks round up."""
    logits = find_logits(output)
    if logits is None or logits.ndim != 3 or logits.shape[:2] != shape or logits.shape[2] < vocab_size:
        got = type(output).__name__ if logits is None else list(logits.shape)
        raise LimbeckError(
            f"logits of {type(network).__name__} must be [{shape[0]}, {shape[1]}, {vocab_size}], got {got}; set "
            "vocab_size of the network and of the task to that of the data"
        )
    return logits if logits.shape[2] == vocab_size else logits[:, :, :vocab_size]


def covered_samples(network: nn.Module, batch: Any) -> Tensor | None:
    """Which samples are of the language pairs that ``network`` is for, ``[batch]`` booleans; ``None``: all."""
    pairs = getattr(network, "pairs", None)
    if pairs is None:
        return None
    if "pair" not in batch:
        raise LimbeckError(f"a network for the language pairs {list(pairs)} needs batches with 'pair', and it has none")
    return torch.isin(batch["pair"].reshape(-1), torch.tensor(pairs, device=batch["pair"].device))


def pack(target_logits: Tensor, target: Sentences, hypothesis_logits: Tensor, hypothesis: Sentences) -> Tensor:
    """Logits by sample, of which each sample has those of its target and then those of its translation."""
    first, second = target.lengths, hypothesis.lengths
    position = torch.arange(max(1, int((first + second).max()) if len(first) else 1), device=first.device)
    both = torch.cat([target_logits, hypothesis_logits], dim=1)
    second_index = (target_logits.shape[1] + position - first[:, None]).clamp(max=both.shape[1] - 1)
    index = torch.where(position < first[:, None], position, second_index)
    return both.gather(1, index[:, :, None].expand(-1, -1, both.shape[2]))


def select_rows(token_logits: Tensor, target: Sentences, hypothesis: Sentences | None) -> Tensor:
    """The rows ``[rows, vocabulary]`` of logits by sample."""
    longest = token_logits.shape[1]
    is_target = _resize(target.is_row, longest)
    if hypothesis is None:
        return token_logits[is_target]
    first, position = target.lengths[:, None], torch.arange(longest, device=token_logits.device)
    is_hypothesis = (position >= first) & (position < first + hypothesis.lengths[:, None])
    return torch.cat([token_logits[is_target], token_logits[is_hypothesis]])


def _resize(mask: Tensor, longest: int) -> Tensor:
    return F.pad(mask, (0, longest - mask.shape[1])) if mask.shape[1] <= longest else mask[:, :longest]


def join_rows(logits: Tensor, batch: Any, *, by_sample: Mapping[str, Tensor], valid: Tensor | None = None) -> Outputs:
    """Outputs of ``batch`` with these ``logits`` ``[rows, vocabulary]``.

    Each row has its ``token``, its language ``pair``, and whether it is of a teacher's translation
    (``is_hypothesis``); each sample has its source.
    """
    target, hypothesis = get_target(batch), find_hypothesis(batch)
    tokens, owners = target.tokens[target.is_row], target.is_row.nonzero()[:, 0]
    is_hypothesis = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    if hypothesis is not None:
        tokens = torch.cat([tokens, hypothesis.tokens[hypothesis.is_row]])
        owners = torch.cat([owners, hypothesis.is_row.nonzero()[:, 0]])
        is_hypothesis = F.pad(is_hypothesis, (0, len(tokens) - len(is_hypothesis)), value=True)
    by_row, source = {"token": tokens, "is_hypothesis": is_hypothesis}, {k: batch[k] for k in _SOURCE if k in batch}
    if "pair" in batch:
        by_row["pair"] = batch["pair"].reshape(-1)[owners]
    return Outputs(
        logits=logits, by_row={name: tensor.to(logits.device) for name, tensor in by_row.items()},
        by_sample={**source, **by_sample}, row_to_sample=owners.to(logits.device), valid=valid,
    )  # fmt: skip
