"""MiniLMv2: relations of queries, of keys and of values, between networks of any number of heads.

Wang et al., Findings of ACL 2021, https://arxiv.org/abs/2012.15828. The heads of a layer are concatenated and split
again into ``relation_heads`` of width d, so the attention heads of student and teacher may differ in number. The loss
is the sum of the KL divergences of softmax(Q·Qᵀ/√d), softmax(K·Kᵀ/√d) and softmax(V·Vᵀ/√d). The paper takes the last
layer of the student, and an upper middle layer of a large teacher.
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


def minilmv2_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, relation_heads: int = 48, mask: Tensor | None = None
) -> Tensor:
    """Sum over queries, keys and values of the mean over heads and tokens of KL(teacher ‖ student), in nats.

    Args:
        student: queries, keys and values ``[batch, tokens, width]``.
        teacher: the same, of any width.
        relation_heads: heads into which both widths are split.
        mask: ``[batch, tokens]`` booleans, false in the padding; ``None``: no padding.

    Raises:
        LimbeckError: a width is no multiple of ``relation_heads``.

    >>> import torch
    >>> student, teacher = torch.tensor([[[1.0], [0.0]]]), torch.zeros(1, 2, 1)
    >>> minilmv2_loss([student] * 3, [teacher] * 3, relation_heads=1)
    tensor(0.1802)
    """
    losses = [
        relation_kl((states, states), (teacher_states, teacher_states), num_heads=relation_heads, mask=mask)
        for states, teacher_states in zip(student, teacher, strict=True)
    ]
    return losses[0] + losses[1] + losses[2]


@final
@dataclass(frozen=True)
class MiniLMv2Loss(Loss):
    """:func:`minilmv2_loss` of one layer of student and teacher, which read the same tokens.

    Args:
        query_layer: feature name of the queries, such as of ``encoder.encoder.layer.5.attention.self.query``.
        key_layer: of the keys.
        value_layer: of the values.
        relation_heads: heads into which the widths of student and teacher are split; a divisor of both.
        teacher: name of the teacher; ``None``: the only one.
    """

    knowledge: ClassVar = "relation"
    layer_settings: ClassVar = ("query_layer", "key_layer", "value_layer")
    paper: ClassVar = "https://arxiv.org/abs/2012.15828"
    fn: ClassVar = staticmethod(minilmv2_loss)

    query_layer: str
    key_layer: str
    value_layer: str
    relation_heads: int = 48
    teacher: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_interval("relation_heads", self.relation_heads, "[1, inf)")

    def __call__(self, context: LossContext) -> Tensor:
        layers = (self.query_layer, self.key_layer, self.value_layer)
        student, teacher, mask = read_states(context, layers, self.teacher)
        return minilmv2_loss(student, teacher, relation_heads=self.relation_heads, mask=mask)
