"""Relations between the tokens of each text: softmax of scaled dot products of heads, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.losses._ops import upcast
from limbeck.losses._sequences import pair_features


class TokenStates(NamedTuple):
    """Queries, keys and values of one layer, each ``[batch, tokens, width]``."""

    query: Tensor
    key: Tensor
    value: Tensor


def read_states(
    context: LossContext, layers: Sequence[str], teacher: str | None
) -> tuple[TokenStates, TokenStates, Tensor | None]:
    """Queries, keys and values of student and teacher at three ``layers``, and ``[batch, tokens]``, true for tokens.

    Raises:
        LimbeckError: features are not of tokens, or those of student and teacher are of different ones.
    """
    pairs = [pair_features(context, layer, teacher) for layer in layers]
    for layer, pair in zip(layers, pairs, strict=True):
        shapes = [list(features.shape) for features in (pair.student, pair.teacher)]
        if any(len(shape) != 3 for shape in shapes) or shapes[0][:2] != shapes[1][:2]:
            raise LimbeckError(
                f"relations need features [batch, tokens, width] of the same tokens, and those of {layer!r} have the "
                f"shapes {shapes[0]} and {shapes[1]}: use the linear layers of queries, keys and values, and one "
                "tokenizer for student and teacher"
            )
    student, teacher_states = (TokenStates(*(getattr(pair, name) for pair in pairs)) for name in ("student", "teacher"))
    return student, teacher_states, pairs[0].student_mask


def relation_kl(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], *, num_heads: int, mask: Tensor | None
) -> Tensor:
    """Mean over heads and tokens of KL(teacher ‖ student) of softmax(A·Bᵀ/√d), in nats; d is the width of a head.

    Args:
        student: A and B, ``[batch, tokens, width]``.
        teacher: the same, of any width.
        num_heads: heads into which both widths are split.
        mask: ``[batch, tokens]`` booleans, false in the padding, which neither relates nor is related to; ``None``: no
            padding.

    >>> first, second = torch.tensor([[[1.0], [0.0]]]), torch.zeros(1, 2, 1)
    >>> relation_kl((first, first), (second, second), num_heads=1, mask=None)
    tensor(0.0601)
    """
    log_q, log_p = (
        _relation_log_softmax(*(upcast(states) for states in pair), num_heads=num_heads, mask=mask)
        for pair in (student, (teacher[0].detach(), teacher[1].detach()))
    )
    by_token = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=3).mean(dim=1)
    if mask is None:
        return by_token.sum() / max(by_token.numel(), 1)
    return by_token.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def _relation_log_softmax(first: Tensor, second: Tensor, *, num_heads: int, mask: Tensor | None) -> Tensor:
    """``[batch, heads, tokens, tokens]``; the lowest finite number in the columns of padding."""
    first, second = _split_heads(first, num_heads), _split_heads(second, num_heads)
    logits = first @ second.mT / first.shape[3] ** 0.5
    if mask is not None:
        is_related = mask | ~mask.any(dim=1, keepdim=True)  # a text without tokens has no loss
        logits = logits.masked_fill(~is_related[:, None, None], -torch.inf)
    log_q = F.log_softmax(logits, dim=3)
    return log_q.clamp(min=torch.finfo(log_q.dtype).min)


def _split_heads(states: Tensor, num_heads: int) -> Tensor:
    """``[batch, heads, tokens, width / heads]``."""
    if states.ndim != 3 or states.shape[2] % num_heads:
        raise LimbeckError(
            f"the width of states [batch, tokens, width] must be a multiple of the {num_heads} heads, got "
            f"{list(states.shape)}"
        )
    batch, tokens, width = states.shape
    return states.reshape(batch, tokens, num_heads, width // num_heads).transpose(1, 2)
