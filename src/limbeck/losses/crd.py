"""Knowledge of relations: a sample's two features know each other among those of many others (CRD).

Tian, Krishnan & Isola, ICLR 2020, https://arxiv.org/abs/1910.10699. Student and teacher features go through a learned
linear layer to an embedding of length 1; banks remember the embeddings of both for the samples seen. Let r be
exp(a·b / tau) of an anchor a from one network and b from the other. Noise-contrastive estimation asks of each pair
whether it is one sample or drawn among the K others:

    h    = r / (r + K · E)
    loss = mean over rows of −log h(own pair) − Σ over others of log(1 − h),   for student and teacher as anchors

E is the mean of r over the others. The paper's text has K over the number of samples in place of K · E; its code has E,
fixed for ever by the first batch, when nothing has been learned. Here E is taken in each batch from all its pairs with
the bank, without a gradient, so it is never stale and no state of its own. Other choices:

- The own pair is that of this batch, not the bank's older one, so both embeddings learn from it.
- The others are all that is in the bank, the same for each row, by one matrix product: no [rows, K, width] is made, and
  nothing is drawn at random. A row's own sample is never among them; nor, where labels are known, is its class.
- The banks hold ``size`` samples. More than the data has is the paper's bank of every sample; fewer makes a queue, from
  which the oldest go. A sample that comes again moves its place by ``1 − momentum`` towards what it is now.

Weights as published: 0.8.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.losses._ops import likeliest, mean_rows, require_same_shape, widen
from limbeck.utils.all_gather import gather

__all__ = ["Contrast", "contrast"]


def contrast(
    student: Tensor, teacher: Tensor, *, students: Tensor, teachers: Tensor, others: Tensor, tau: float = 0.07
) -> Tensor:
    """Noise-contrastive loss of each network's embeddings among the other's of other samples, both ways added.

    Shapes: ``student``, ``teacher`` ``[rows, width]`` embeddings of length 1; ``students``, ``teachers``
    ``[kept, width]``, those remembered, without gradients; ``others`` ``[rows, kept]`` booleans, false where a
    remembered one is the row's own sample (or of its class). A gradient reaches ``teacher``, whose embedding is learned
    as well: cut the features before the embedding, not after. Zero where nobody is remembered.

    >>> east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> contrast(east, east, students=north, teachers=north, others=torch.tensor([[True]]), tau=1.0)
    tensor(2.0128)
    """
    require_same_shape(student, teacher, what="embeddings", hint="embed both in the same width")
    if others.shape != (len(student), len(students)) or students.shape != teachers.shape:
        raise LimbeckError(
            f"{len(student)} rows are compared with remembered students {list(students.shape)} and teachers "
            f"{list(teachers.shape)}, by others {list(others.shape)}: give both alike, and others as [rows, remembered]"
        )
    student, teacher = widen(student), widen(teacher)
    own = (student * teacher).sum(dim=1) / tau
    to_teachers, to_students = student @ teachers.to(student).T / tau, teacher @ students.to(teacher).T / tau
    return _one_way(own, to_teachers, others) + _one_way(own, to_students, others)


@final
class Contrast(nn.Module):
    """:func:`contrast` between two tapped layers, each through a learned embedding, with banks of what was seen.

    Arguments:
        at: the name of the tap, given to the student and to the teacher alike; positions and tokens are averaged.
        size: how many samples the banks hold; a batch has at most as many.
        width: of the embedding.
        tau: what the cosine is divided by, above zero.
        momentum: how much of its old place a sample keeps when it comes again, from 0 to below 1.
        teacher: which teacher; ``None`` takes the combination of all.

    Samples are known by ``exchange.index``. The banks are buffers: they are saved, resumed and moved with the term, and
    stand still in eval mode. With several processes each remembers the samples of all, so their banks stay the same.
    """

    number: Tensor
    label: Tensor
    students: Tensor
    teachers: Tensor
    place: Tensor

    def __init__(
        self, at: str, *, size: int = 16384, width: int = 128, tau: float = 0.07, momentum: float = 0.5,
        teacher: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if size < 2 or width < 1:
            raise LimbeckError(f"a bank holds at least 2 samples of width 1 or more, not {size} of {width}")
        if not tau > 0 or not 0 <= momentum < 1:
            raise LimbeckError(
                f"tau is above zero and momentum from 0 to below 1, and here are tau {tau} and momentum {momentum}"
            )
        self.at, self.size, self.width, self.tau = at, size, width, tau
        self.momentum, self.teacher = momentum, teacher
        self.embed: nn.ModuleDict | None = None

    def prepare(self, exchange: Exchange) -> None:
        """Shape the embeddings and the banks by the features of ``exchange``."""
        exchange.numbers(self.teacher)
        student, teacher = (_pooled(outputs.tap(self.at)) for outputs in exchange.pair(self.teacher))
        self.embed = nn.ModuleDict(
            {
                name: nn.Linear(features.shape[1], self.width).to(features)
                for name, features in (("student", student), ("teacher", teacher))
            }
        )
        for name in ("students", "teachers"):
            self.register_buffer(name, student.new_zeros(self.size, self.width))
        for name, empty in (("number", -1), ("label", -100)):
            self.register_buffer(name, torch.full((self.size,), empty, device=student.device))
        self.register_buffer("place", torch.zeros((), dtype=torch.long, device=student.device))

    def forward(self, exchange: Exchange) -> Tensor:
        """The loss of this exchange; in training, the banks remember it."""
        if self.embed is None:
            raise LimbeckError(
                "Contrast has no embeddings yet: call distiller.prepare(batch) before building the optimizer"
            )
        said, told = exchange.pair(self.teacher)
        student = self._embedded("student", said.tap(self.at))
        teacher = self._embedded("teacher", told.tap(self.at).detach())
        number = exchange.numbers(self.teacher).to(self.number)
        label = self._labels(exchange, len(number)).to(self.label)
        if self.training:
            self._remember(number, label, student.detach(), teacher.detach())
        # Places are filled in their order. A copy: the banks move on before a later backward pass.
        kept = int((self.number >= 0).sum())
        students, teachers = self.students[:kept].clone(), self.teachers[:kept].clone()
        same = (label.unsqueeze(1) == self.label[:kept]) & (label >= 0).unsqueeze(1)
        others = (number.unsqueeze(1) != self.number[:kept]) & ~same
        return contrast(student, teacher, students=students, teachers=teachers, others=others, tau=self.tau)

    def extra_repr(self) -> str:
        named = f"at={self.at!r}, size={self.size}, width={self.width}, tau={self.tau}, momentum={self.momentum}"
        return named + (f", teacher={self.teacher!r}" if self.teacher else "")

    def _embedded(self, name: str, features: Tensor) -> Tensor:
        assert self.embed is not None
        layer = self.embed[name]
        assert isinstance(layer, nn.Linear)
        return F.normalize(widen(layer(_pooled(features).to(layer.weight.dtype))), dim=1)

    def _labels(self, exchange: Exchange, many: int) -> Tensor:
        """The class of each sample, −100 where it is not known: without labels, or where rows are no samples."""
        if exchange.target is not None:
            labels = likeliest(exchange.judged(self.teacher)[2])
            if len(labels) == many:
                return labels
        return torch.full((many,), -100)

    @torch.no_grad()
    def _remember(self, number: Tensor, label: Tensor, student: Tensor, teacher: Tensor) -> None:
        number, label, student, teacher = (gather(tensor) for tensor in (number, label, student, teacher))
        # A sample in several views, or from several processes, is one: its mean direction.
        once, which = torch.unique(number, return_inverse=True)
        if len(once) > self.size:
            raise LimbeckError(
                f"the bank of Contrast holds {self.size} samples, and this batch has {len(once)}: set size to at least "
                "that, better many times more"
            )
        found = once.unsqueeze(1) == self.number
        known, slot = found.any(dim=1), found.to(torch.uint8).argmax(dim=1)
        fresh = (self.place + torch.arange(int((~known).sum()), device=once.device)) % self.size
        for bank, embedded in ((self.students, student), (self.teachers, teacher)):
            now = F.normalize(torch.zeros(len(once), self.width).to(embedded).index_add(0, which, embedded), dim=1)
            # Known ones first: a new one may take the place of one that was moved just before.
            moved = bank[slot[known]].to(now) * self.momentum + now[known] * (1 - self.momentum)
            bank[slot[known]] = F.normalize(moved, dim=1).to(bank)
            bank[fresh] = now[~known].to(bank)
        classes = torch.full_like(once, -100).scatter_reduce(0, which, label, "amax")
        self.label[slot[known]] = classes[known]
        self.label[fresh], self.number[fresh] = classes[~known], once[~known]
        self.place.copy_((self.place + len(fresh)) % self.size)


def _one_way(own: Tensor, among: Tensor, others: Tensor) -> Tensor:
    """Mean over rows, with logits ``own`` ``[rows]`` and ``among`` ``[rows, kept]``, of which ``others`` count."""
    many = others.sum(dim=1).to(own)
    if not others.any():
        return own.sum() * 0
    mean = among.detach().masked_fill(~others, -torch.inf).flatten().logsumexp(dim=0) - many.sum().log()
    # log(h / (1 − h)) = log r − log K − log E
    odds = mean + many.clamp(min=1).log()
    wrong = F.softplus(among - odds.unsqueeze(1)).masked_fill(~others, 0.0).sum(dim=1)
    return mean_rows((F.softplus(odds - own) + wrong).masked_fill(many == 0, 0.0))


def _pooled(features: Tensor) -> Tensor:
    """``[batch, channels]``: the mean over positions, or over the tokens of ``[batch, tokens, width]``."""
    features = widen(features)
    if features.ndim < 3:
        return features if features.ndim == 2 else features.unsqueeze(1)
    return features.mean(dim=1) if features.ndim == 3 else features.flatten(2).mean(dim=2)
