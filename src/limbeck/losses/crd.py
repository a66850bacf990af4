"""Contrastive representation distillation (CRD): noise-contrastive estimation with memory banks.

Tian, Krishnan & Isola, ICLR 2020, https://arxiv.org/abs/1910.10699. Student and teacher features go through a learned
linear layer to an embedding of length 1; memory banks hold the embeddings of both networks for past samples. Let r be
exp(a·b / τ) of an anchor a from one network and b from the other. Noise-contrastive estimation classifies
each pair as one sample or as one of K negatives:

    h    = r / (r + K · E)
    loss = mean over rows of −log h(positive) − Σ over negatives of log(1 − h),   for student and teacher as anchors

E is the mean of r over the negatives, computed in each batch without a gradient (the published code fixes it by the
first batch). Other choices:

- The positive pair is that of this batch, not of the bank, so both embeddings learn from it.
- The negatives are the whole bank, by one matrix product, without a [rows, K, width] tensor and without random draws,
  except the sample of the row and, where labels are known, its class.
- The banks hold ``bank_size`` samples. At least as many as the data has is the paper's bank; fewer make a queue.
  A stored sample is updated by an exponential moving average with ``momentum``.

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
from limbeck.losses._bases import format_settings
from limbeck.losses._features import channels_first, require_prepared
from limbeck.losses._ops import IGNORE_INDEX, hard_labels, require_interval, require_same_shape, row_mean, upcast
from limbeck.losses._sequences import pair_features, weigh_valid
from limbeck.utils.all_gather import all_gather


def crd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    student_bank: Tensor,
    teacher_bank: Tensor,
    negative_mask: Tensor,
    temperature: float = 0.07,
) -> Tensor:
    """Noise-contrastive loss of each network's embeddings against the other network's bank, summed over both.

    Shapes: ``student``, ``teacher`` ``[rows, width]`` embeddings of length 1; ``student_bank``, ``teacher_bank``
    ``[stored, width]``, without gradients; ``negative_mask`` ``[rows, stored]`` booleans, false where a stored
    embedding is of the row's sample (or class). A gradient reaches ``teacher``, whose embedding is learned as well:
    detach the features before the embedding. Zero with empty banks.

    >>> east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> mask = torch.tensor([[True]])
    >>> crd_loss(east, east, student_bank=north, teacher_bank=north, negative_mask=mask, temperature=1.0)
    tensor(2.0128)
    """
    require_same_shape(student, teacher, name="embeddings", hint="embed both in the same width")
    if negative_mask.shape != (len(student), len(student_bank)) or student_bank.shape != teacher_bank.shape:
        raise LimbeckError(
            f"{len(student)} rows need banks of one shape and negative_mask [rows, stored], got the banks "
            f"{list(student_bank.shape)} and {list(teacher_bank.shape)} and negative_mask {list(negative_mask.shape)}"
        )
    student, teacher = upcast(student), upcast(teacher)
    positive_logits = (student * teacher).sum(dim=1) / temperature
    bank_logits = (
        student @ teacher_bank.to(student).T / temperature,
        teacher @ student_bank.to(teacher).T / temperature,
    )
    first, second = (_nce_loss(positive_logits, logits, negative_mask) for logits in bank_logits)
    return first + second


@final
class CRDLoss(nn.Module, Loss):
    """:func:`crd_loss` of one layer of student and teacher, each through a learned embedding, with memory banks.

    Args:
        layer: name of the layer, the same for student and teacher; positions and tokens are averaged.
        bank_size: number of samples in the banks, at least that of a batch.
        embedding_dim: width of the embedding.
        temperature: what the cosine is divided by, above zero.
        momentum: of the moving average of a stored embedding, from 0 to below 1.
        teacher: name of the teacher; ``None``: the ensemble of all.

    Samples are identified by ``context.sample_ids``. The banks are buffers, updated in training mode only. With several
    processes each stores the samples of all, so their banks are equal.
    """

    knowledge: ClassVar = "relation"
    layer_settings: ClassVar = ("layer",)
    paper: ClassVar = "https://arxiv.org/abs/1910.10699"
    fn: ClassVar = staticmethod(crd_loss)

    sample_ids: Tensor
    labels: Tensor
    student_bank: Tensor
    teacher_bank: Tensor
    write_index: Tensor

    def __init__(
        self, layer: str, *, bank_size: int = 16384, embedding_dim: int = 128, temperature: float = 0.07,
        momentum: float = 0.5, teacher: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        require_interval("bank_size", bank_size, "[2, inf)")
        require_interval("embedding_dim", embedding_dim, "[1, inf)")
        require_interval("temperature", temperature, "(0, inf)")
        require_interval("momentum", momentum, "[0, 1)")
        self.layer, self.bank_size, self.embedding_dim, self.temperature = layer, bank_size, embedding_dim, temperature
        self.momentum, self.teacher = momentum, teacher
        self.embed: nn.ModuleDict | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the embeddings and the banks for the features of ``context``."""
        context.require_sample_ids(self.teacher)
        student, teacher = (_pool_features(features) for features in self._features(context))
        embed = {"student": student, "teacher": teacher}
        self.embed = nn.ModuleDict({name: nn.Linear(x.shape[1], self.embedding_dim).to(x) for name, x in embed.items()})
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, student.new_zeros(self.bank_size, self.embedding_dim))
        for name, fill_value in (("sample_ids", -1), ("labels", IGNORE_INDEX)):
            self.register_buffer(name, torch.full((self.bank_size,), fill_value, device=student.device))
        self.register_buffer("write_index", torch.zeros((), dtype=torch.long, device=student.device))

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context; in training mode it updates the banks."""
        student_features, teacher_features = self._features(context)
        student = self._embed_features("student", student_features)
        teacher = self._embed_features("teacher", teacher_features.detach())
        sample_ids = context.require_sample_ids(self.teacher).to(self.sample_ids)
        labels = self._labels(context, len(sample_ids)).to(self.labels)
        if self.training:
            self._update_banks(sample_ids, labels, student.detach(), teacher.detach())
        # Slots are filled in their order. A copy: the banks change before a later backward pass.
        num_stored = int((self.sample_ids >= 0).sum())
        student_bank, teacher_bank = self.student_bank[:num_stored].clone(), self.teacher_bank[:num_stored].clone()
        same_class = (labels.unsqueeze(1) == self.labels[:num_stored]) & (labels >= 0).unsqueeze(1)
        negative_mask = (sample_ids.unsqueeze(1) != self.sample_ids[:num_stored]) & ~same_class
        return crd_loss(
            student, teacher, student_bank=student_bank, teacher_bank=teacher_bank, negative_mask=negative_mask,
            temperature=self.temperature,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return format_settings(self, "layer", "bank_size", "embedding_dim", "temperature", "momentum")

    def _features(self, context: LossContext) -> tuple[Tensor, Tensor]:
        """The features of student and teacher, whose mean over positions is that without padding."""
        pair = pair_features(context, self.layer, self.teacher)
        return weigh_valid(pair.student, pair.student_mask), weigh_valid(pair.teacher, pair.teacher_mask)

    def _embed_features(self, name: str, features: Tensor) -> Tensor:
        layer = require_prepared(self.embed, "CRDLoss")[name]
        weight = next(layer.parameters())
        return F.normalize(upcast(layer(_pool_features(features).to(weight.dtype))), dim=1)

    def _labels(self, context: LossContext, count: int) -> Tensor:
        """The class of each sample, −100 where it is not known: without labels, or where rows are no samples."""
        if context.target is not None:
            labels = hard_labels(context.pair_with_target(self.teacher)[2])
            if len(labels) == count:
                return labels
        return torch.full((count,), IGNORE_INDEX)

    @torch.no_grad()
    def _update_banks(self, sample_ids: Tensor, labels: Tensor, student: Tensor, teacher: Tensor) -> None:
        sample_ids, labels, student, teacher = (all_gather(tensor) for tensor in (sample_ids, labels, student, teacher))
        # A sample in several views, or from several processes, is one: its mean direction.
        unique_ids, inverse = torch.unique(sample_ids, return_inverse=True)
        if len(unique_ids) > self.bank_size:
            raise LimbeckError(
                f"the bank of CRDLoss holds {self.bank_size} samples, and this batch has {len(unique_ids)}: set "
                "bank_size to several times the batch"
            )
        matches = unique_ids.unsqueeze(1) == self.sample_ids
        is_stored, slots = matches.any(dim=1), matches.to(torch.uint8).argmax(dim=1)
        num_new = int((~is_stored).sum())
        new_slots = (self.write_index + torch.arange(num_new, device=unique_ids.device)) % self.bank_size
        for bank, rows in ((self.student_bank, student), (self.teacher_bank, teacher)):
            sums = rows.new_zeros(len(unique_ids), self.embedding_dim).index_add(0, inverse, rows)
            embeddings = F.normalize(sums, dim=1)
            # Stored ones first: a new one may take the slot of one that was moved just before.
            moved = bank[slots[is_stored]].to(embeddings).lerp(embeddings[is_stored], 1 - self.momentum)
            bank[slots[is_stored]] = F.normalize(moved, dim=1).to(bank)
            bank[new_slots] = embeddings[~is_stored].to(bank)
        classes = torch.full_like(unique_ids, IGNORE_INDEX).scatter_reduce(0, inverse, labels, "amax")
        self.labels[slots[is_stored]] = classes[is_stored]
        self.labels[new_slots], self.sample_ids[new_slots] = classes[~is_stored], unique_ids[~is_stored]
        self.write_index.copy_((self.write_index + num_new) % self.bank_size)


def _nce_loss(positive_logits: Tensor, bank_logits: Tensor, negative_mask: Tensor) -> Tensor:
    """Mean over rows; ``positive_logits`` ``[rows]``, ``bank_logits`` and ``negative_mask`` ``[rows, stored]``."""
    num_negatives = negative_mask.sum(dim=1).to(positive_logits)
    if not negative_mask.any():
        return positive_logits.sum() * 0
    negatives = bank_logits.detach().masked_fill(~negative_mask, -torch.inf)
    mean = negatives.flatten().logsumexp(dim=0) - num_negatives.sum().log()
    # log(h / (1 − h)) = log r − log K − log E
    log_noise = mean + num_negatives.clamp(min=1).log()
    negative_loss = F.softplus(bank_logits - log_noise.unsqueeze(1)).masked_fill(~negative_mask, 0.0).sum(dim=1)
    return row_mean((F.softplus(log_noise - positive_logits) + negative_loss).masked_fill(num_negatives == 0, 0.0))


def _pool_features(features: Tensor) -> Tensor:
    """``[batch, channels]``: the mean over positions, or over the tokens of ``[batch, tokens, width]``."""
    features = channels_first(upcast(features))
    if features.ndim == 1:
        return features.unsqueeze(1)
    return features.flatten(2).mean(dim=2) if features.ndim > 2 else features
