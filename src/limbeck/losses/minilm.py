"""MiniLM: self-attention and value relations of one layer.

Wang et al., NeurIPS 2020, https://arxiv.org/abs/2002.10957. With queries Q, keys K and values V of each of the
``num_heads`` heads of width d, the loss is the KL divergence of the attention softmax(Q·Kᵀ/√d), plus that of the value
relation softmax(V·Vᵀ/√d). Student and teacher have equally many heads, of any width. The paper takes the last layer of
both; the layers are their linear layers of queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

from torch import Tensor

from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._attention import read_states, relation_kl
from limbeck.losses._ops import require_interval


def minilm_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, num_heads: int = 12, mask: Tensor | None = None
) -> Tensor:
    """Mean over heads and tokens of KL(teacher ‖ student) of self-attention, plus that of value relations, in nats.

    Args:
        student: queries, keys and values ``[batch, tokens, width]``.
        teacher: the same, of any width.
        num_heads: attention heads of both.
        mask: ``[batch, tokens]`` booleans, false in the padding; ``None``: no padding.

    Raises:
        LimbeckError: a width is no multiple of ``num_heads``.

    >>> import torch
    >>> student, teacher = torch.tensor([[[1.0], [0.0]]]), torch.zeros(1, 2, 1)
    >>> minilm_loss([student] * 3, [teacher] * 3, num_heads=1)
    tensor(0.1201)
    """
    query, key, value = student
    teacher_query, teacher_key, teacher_value = teacher
    attention = relation_kl((query, key), (teacher_query, teacher_key), num_heads=num_heads, mask=mask)
    return attention + relation_kl((value, value), (teacher_value, teacher_value), num_heads=num_heads, mask=mask)


@final
@dataclass(frozen=True)
class MiniLMLoss(Loss):
    """:func:`minilm_loss` of one layer of student and teacher, which read the same tokens.

    Args:
        query_layer: feature name of the queries, such as of ``encoder.encoder.layer.5.attention.self.query``.
        key_layer: of the keys.
        value_layer: of the values.
        num_heads: attention heads of student and teacher; of networks with different numbers, use MiniLMv2Loss.
        teacher: name of the teacher; ``None``: the only one.
    """

    knowledge: ClassVar = "relation"
    layer_settings: ClassVar = ("query_layer", "key_layer", "value_layer")
    paper: ClassVar = "https://arxiv.org/abs/2002.10957"
    fn: ClassVar = staticmethod(minilm_loss)

    query_layer: str
    key_layer: str
    value_layer: str
    num_heads: int = 12
    teacher: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_interval("num_heads", self.num_heads, "[1, inf)")

    def __call__(self, context: LossContext) -> Tensor:
        layers = (self.query_layer, self.key_layer, self.value_layer)
        student, teacher, mask = read_states(context, layers, self.teacher)
        return minilm_loss(student, teacher, num_heads=self.num_heads, mask=mask)
