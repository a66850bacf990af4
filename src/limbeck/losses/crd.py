"""Contrastive representation distillation (CRD): noise-contrastive estimation with memory banks.

Tian, Krishnan & Isola, ICLR 2020, https://arxiv.org/abs/1910.10699. Student and teacher features go through a learned
linear layer to an embedding of length 1; banks remember the embeddings of both for the samples seen. Let r be
exp(a·b / τ) of an anchor a from one network and b from the other. Noise-contrastive estimation asks of each pair
whether it is one sample or drawn among the K others:

    h    = r / (r + K · E)
    loss = mean over rows of −log h(own pair) − Σ over others of log(1 − h),   for student and teacher as anchors

E is the mean of r over the others. The paper's text has K over the number of samples in place of K · E; its code has E,
fixed for ever by the first batch, when nothing has been learned. Here E is taken in each batch from all its pairs with
the bank, without a gradient, so it is never stale and no state of its own. Other choices:

- The own pair is that of this batch, not the bank's older one, so both embeddings learn from it.
- The others are all that is in the bank, the same for each row, by one matrix product: no [rows, K, width] is made, and
  nothing is drawn at random. A row's own sample is never among them; nor, where labels are known, is its class.
- The banks hold ``bank_size`` samples. More than the data has is the paper's bank of every sample; fewer makes a queue,
from
  which the oldest go. A sample that comes again moves its place by ``1 − momentum`` towards what it is now.

Weights as published: 0.8.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import format_settings
from limbeck.losses._ops import hard_labels, require_same_shape, row_mean, upcast
from limbeck.utils.all_gather import all_gather

__all__ = ["CRDLoss", "crd_loss"]


def crd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    student_bank: Tensor,
    teacher_bank: Tensor,
    negative_mask: Tensor,
    temperature: float = 0.07,
) -> Tensor:
    """Noise-contrastive loss of each network's embeddings among the other's of other samples, both ways added.

    Shapes: ``student``, ``teacher`` ``[rows, width]`` embeddings of length 1; ``student_bank``, ``teacher_bank``
    ``[kept, width]``, those remembered, without gradients; ``negative_mask`` ``[rows, kept]`` booleans, false where a
    remembered one is the row's own sample (or of its class). A gradient reaches ``teacher``, whose embedding is learned
    as well: cut the features before the embedding, not after. Zero where nobody is remembered.

    >>> east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> crd_loss(east, east, student_bank=north, teacher_bank=north, negative_mask=torch.tensor([[True]]), temperature=1.0)
    tensor(2.0128)
    """
    require_same_shape(student, teacher, name="embeddings", hint="embed both in the same width")
    if negative_mask.shape != (len(student), len(student_bank)) or student_bank.shape != teacher_bank.shape:
        raise LimbeckError(
            f"{len(student)} rows are compared with remembered students {list(student_bank.shape)} and teachers "
            f"{list(teacher_bank.shape)}, by negative_mask {list(negative_mask.shape)}: give both alike, and negative_mask as [rows, remembered]"
        )
    student, teacher = upcast(student), upcast(teacher)
    positive_logits = (student * teacher).sum(dim=1) / temperature
    teacher_bank_logits, student_bank_logits = (
        student @ teacher_bank.to(student).T / temperature,
        teacher @ student_bank.to(teacher).T / temperature,
    )
    return _nce_loss(positive_logits, teacher_bank_logits, negative_mask) + _nce_loss(
        positive_logits, student_bank_logits, negative_mask
    )


@final
class CRDLoss(nn.Module, Loss):
    """:func:`crd_loss` between two tapped layers, each through a learned embedding, with banks of what was seen.

    Args:
        layer: the name of the tap, given to the student and to the teacher alike; positions and tokens are averaged.
        bank_size: how many samples the banks hold; a batch has at most as many.
        embedding_dim: of the embedding.
        temperature: what the cosine is divided by, above zero.
        momentum: how much of its old place a sample keeps when it comes again, from 0 to below 1.
        teacher: which teacher; ``None`` takes the combination of all.

    Samples are known by ``context.sample_ids``. The banks are buffers: they are saved, resumed and moved with the term,
    and stand still in eval mode. With several processes each remembers the samples of all, so their banks stay the
    same.
    """

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1910.10699"

    sample_ids: Tensor
    labels: Tensor
    student_bank: Tensor
    teacher_bank: Tensor
    write_index: Tensor

    def __init__(
        self, layer: str, *, bank_size: int = 16384, embedding_dim: int = 128, temperature: float = 0.07, momentum: float = 0.5,
        teacher: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if bank_size < 2 or embedding_dim < 1:
            raise LimbeckError(
                f"a bank holds at least 2 samples of width 1 or more, not {bank_size} of {embedding_dim}"
            )
        if not temperature > 0 or not 0 <= momentum < 1:
            raise LimbeckError(
                f"the temperature is above zero and momentum from 0 to below 1, and here are temperature {temperature} and momentum {momentum}"
            )
        self.layer, self.bank_size, self.embedding_dim, self.temperature = layer, bank_size, embedding_dim, temperature
        self.momentum, self.teacher = momentum, teacher
        self.embed: nn.ModuleDict | None = None

    def prepare(self, context: LossContext) -> None:
        """Shape the embeddings and the banks by the features of ``context``."""
        context.require_sample_ids(self.teacher)
        student, teacher = (_pool_features(outputs.feature(self.layer)) for outputs in context.pair(self.teacher))
        self.embed = nn.ModuleDict(
            {
                name: nn.Linear(features.shape[1], self.embedding_dim).to(features)
                for name, features in (("student", student), ("teacher", teacher))
            }
        )
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, student.new_zeros(self.bank_size, self.embedding_dim))
        for name, fill_value in (("sample_ids", -1), ("labels", -100)):
            self.register_buffer(name, torch.full((self.bank_size,), fill_value, device=student.device))
        self.register_buffer("write_index", torch.zeros((), dtype=torch.long, device=student.device))

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context; in training, the banks remember it."""
        if self.embed is None:
            raise LimbeckError(
                "CRDLoss has no embeddings yet: call distiller.prepare(batch) before building the optimizer"
            )
        student_outputs, teacher_outputs = context.pair(self.teacher)
        student = self._embed_features("student", student_outputs.feature(self.layer))
        teacher = self._embed_features("teacher", teacher_outputs.feature(self.layer).detach())
        sample_ids = context.require_sample_ids(self.teacher).to(self.sample_ids)
        labels = self._labels(context, len(sample_ids)).to(self.labels)
        if self.training:
            self._update_banks(sample_ids, labels, student.detach(), teacher.detach())
        # Places are filled in their order. A copy: the banks move on before a later backward pass.
        num_stored = int((self.sample_ids >= 0).sum())
        student_bank, teacher_bank = self.student_bank[:num_stored].clone(), self.teacher_bank[:num_stored].clone()
        same_class = (labels.unsqueeze(1) == self.labels[:num_stored]) & (labels >= 0).unsqueeze(1)
        negative_mask = (sample_ids.unsqueeze(1) != self.sample_ids[:num_stored]) & ~same_class
        return crd_loss(
            student,
            teacher,
            student_bank=student_bank,
            teacher_bank=teacher_bank,
            negative_mask=negative_mask,
            temperature=self.temperature,
        )

    def extra_repr(self) -> str:
        return format_settings(self, "layer", "bank_size", "embedding_dim", "temperature", "momentum")

    def _embed_features(self, name: str, features: Tensor) -> Tensor:
        assert self.embed is not None
        layer = self.embed[name]
        assert isinstance(layer, nn.Linear)
        return F.normalize(upcast(layer(_pool_features(features).to(layer.weight.dtype))), dim=1)

    def _labels(self, context: LossContext, count: int) -> Tensor:
        """The class of each sample, −100 where it is not known: without labels, or where rows are no samples."""
        if context.target is not None:
            labels = hard_labels(context.pair_with_target(self.teacher)[2])
            if len(labels) == count:
                return labels
        return torch.full((count,), -100)

    @torch.no_grad()
    def _update_banks(self, sample_ids: Tensor, labels: Tensor, student: Tensor, teacher: Tensor) -> None:
        sample_ids, labels, student, teacher = (all_gather(tensor) for tensor in (sample_ids, labels, student, teacher))
        # A sample in several views, or from several processes, is one: its mean direction.
        unique_ids, inverse = torch.unique(sample_ids, return_inverse=True)
        if len(unique_ids) > self.bank_size:
            raise LimbeckError(
                f"the bank of CRDLoss holds {self.bank_size} samples, and this batch has {len(unique_ids)}: set bank_size to at least "
                "that, better many times more"
            )
        matches = unique_ids.unsqueeze(1) == self.sample_ids
        is_stored, slots = matches.any(dim=1), matches.to(torch.uint8).argmax(dim=1)
        new_slots = (
            self.write_index + torch.arange(int((~is_stored).sum()), device=unique_ids.device)
        ) % self.bank_size
        for bank, batch_embeddings in ((self.student_bank, student), (self.teacher_bank, teacher)):
            embeddings = F.normalize(
                torch.zeros(len(unique_ids), self.embedding_dim)
                .to(batch_embeddings)
                .index_add(0, inverse, batch_embeddings),
                dim=1,
            )
            # Known ones first: a new one may take the place of one that was moved just before.
            updated = bank[slots[is_stored]].to(embeddings) * self.momentum + embeddings[is_stored] * (
                1 - self.momentum
            )
            bank[slots[is_stored]] = F.normalize(updated, dim=1).to(bank)
            bank[new_slots] = embeddings[~is_stored].to(bank)
        classes = torch.full_like(unique_ids, -100).scatter_reduce(0, inverse, labels, "amax")
        self.labels[slots[is_stored]] = classes[is_stored]
        self.labels[new_slots], self.sample_ids[new_slots] = classes[~is_stored], unique_ids[~is_stored]
        self.write_index.copy_((self.write_index + len(new_slots)) % self.bank_size)


def _nce_loss(positive_logits: Tensor, bank_logits: Tensor, negative_mask: Tensor) -> Tensor:
    """Mean over rows, with logits ``positive_logits`` ``[rows]`` and ``bank_logits`` ``[rows, kept]``, of which ``negative_mask`` count."""
    num_negatives = negative_mask.sum(dim=1).to(positive_logits)
    if not negative_mask.any():
        return positive_logits.sum() * 0
    mean = (
        bank_logits.detach().masked_fill(~negative_mask, -torch.inf).flatten().logsumexp(dim=0)
        - num_negatives.sum().log()
    )
    # log(h / (1 − h)) = log r − log K − log E
    log_noise = mean + num_negatives.clamp(min=1).log()
    negative_loss = F.softplus(bank_logits - log_noise.unsqueeze(1)).masked_fill(~negative_mask, 0.0).sum(dim=1)
    return row_mean((F.softplus(log_noise - positive_logits) + negative_loss).masked_fill(num_negatives == 0, 0.0))


def _pool_features(features: Tensor) -> Tensor:
    """``[batch, channels]``: the mean over positions, or over the tokens of ``[batch, tokens, width]``."""
    features = upcast(features)
    if features.ndim < 3:
        return features if features.ndim == 2 else features.unsqueeze(1)
    return features.mean(dim=1) if features.ndim == 3 else features.flatten(2).mean(dim=2)
