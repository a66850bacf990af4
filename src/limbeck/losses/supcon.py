"""Supervised contrastive learning (SupCon): texts of one target attract, those of others repel.

Khosla et al., NeurIPS 2020, https://arxiv.org/abs/2004.11362, the loss L_out. With cosines s, each embedding i is an
anchor for P(i), the others of its target, among A(i), all others:

    −1/|P(i)| · Σ_{p ∈ P(i)} log(exp(s_ip / τ) / Σ_{a ∈ A(i)} exp(s_ia / τ))

Two embeddings for each target, such as those of a sentence and its translation, make it InfoNCE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._embeddings import sample_embedding, similarity_matrix
from limbeck.losses._ops import IGNORE_INDEX, hard_labels, require_interval


def supcon_loss(embedding: Tensor, target: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Mean over anchors that have a positive, of the mean negative log-probability of their positives, in nats.

    Args:
        embedding: ``[batch, width]`` of any length.
        target: ``[batch]`` integers; −100 for none, which is neither anchor nor negative.
        temperature: what cosines are divided by.

    Returns:
        A scalar; zero, with a gradient of zero, where no two samples have one target.

    >>> embedding = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> supcon_loss(embedding, torch.tensor([0, 0, 1]), temperature=1.0)  # log(1 + exp(-1))
    tensor(0.3133)
    """
    labeled = target != IGNORE_INDEX
    embedding, target = embedding[labeled.to(embedding.device)], target[labeled].to(embedding.device)
    logits = similarity_matrix(embedding, "cosine") / temperature
    is_self = torch.eye(len(target), dtype=torch.bool, device=target.device)
    is_positive = (target[:, None] == target) & ~is_self
    counts = is_positive.sum(dim=1)
    if not bool(counts.any()):
        return embedding.sum() * 0.0
    log_p = logits - logits.masked_fill(is_self, -torch.inf).logsumexp(dim=1, keepdim=True)
    by_anchor = -log_p.masked_fill(~is_positive, 0.0).sum(dim=1) / counts.clamp(min=1)
    return by_anchor.sum() / (counts > 0).sum()


@final
@dataclass(frozen=True)
class SupConLoss(Loss):
    """:func:`supcon_loss` of the student's embeddings and the target.

    Where the outputs have ``source_embedding`` of each sample, it is a second embedding of that target.

    Args:
        temperature: what cosines are divided by, above zero.
    """

    knowledge: ClassVar = "label"
    supervised: ClassVar = True
    needs_teacher: ClassVar = False
    needs_target: ClassVar = True
    paper: ClassVar = "https://arxiv.org/abs/2004.11362"
    fn: ClassVar = staticmethod(supcon_loss)

    temperature: float = 0.1

    def __post_init__(self) -> None:
        require_interval("temperature", self.temperature, "(0, inf)")

    def __call__(self, context: LossContext) -> Tensor:
        embedding, target = sample_embedding(context.student, "SupConLoss"), hard_labels(context.require_target())
        source = context.student.by_sample.get("source_embedding")
        if source is not None:
            embedding, target = torch.cat([embedding, source]), torch.cat([target, target])
        return supcon_loss(embedding, target, temperature=self.temperature)
