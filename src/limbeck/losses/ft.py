"""Knowledge of features: the teacher's map in the teacher's own summary (factor transfer, FT).

Kim et al., NeurIPS 2018, https://arxiv.org/abs/1802.04977. A paraphraser, an autoencoder of the teacher's map with half
as many channels inside, gives the teacher's factor; a translator makes the student's factor from its map. Both are
three 3×3 convolutions with leaky ReLUs (0.1), the paraphraser's way back three transposed ones. The loss compares the
factors.

Each factor becomes one map, the mean over channels of f², flattened and divided by its L2 norm; the loss is the mean
absolute difference. So does well-known code, for which the usual weight of 200 was chosen; the paper divides the whole
factor by its norm and keeps its channels.

The paper trains the paraphraser before the student, by the squared error of its reconstruction, and freezes it. Here it
is trained beside the student, by the same error: that stands in the loss with a weight of its own and reaches the
paraphraser only, as the difference of the factors reaches only translator and student.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.losses._autograd import square_map
from limbeck.losses._features import Layers, match_size, require_maps, shaped, step
from limbeck.losses._ops import mean_squared, widen

__all__ = ["Factor", "factor"]


def factor(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over batch and positions of the absolute difference of the two L2-normalised maps of mean f².

    Shapes: ``[batch, channels, height, width]`` each, the factors; channels may differ, and the larger map is
    average-pooled to the smaller. Zero where the maps are proportional.

    >>> import torch
    >>> factor(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[1.0, 1.0]]]]))
    tensor(0.5000)
    """
    require_maps(student, teacher, method="factor transfer")
    student, teacher = match_size(widen(student), widen(teacher).detach())
    if len(student) != len(teacher):
        raise LimbeckError(
            f"factors of {len(student)} and {len(teacher)} samples cannot be compared: the batch must be equal"
        )
    difference = square_map(student) - square_map(teacher)
    return difference.abs().sum() / max(difference.numel(), 1)


@final
class Factor(nn.Module):
    """:func:`factor` between two tapped layers, plus the reconstruction error by which the paraphraser learns.

    Arguments:
        at: the name of the tap, given to the student and to the teacher alike.
        rate: channels of a factor over channels of the teacher, above 0 and up to 1.
        paraphrase: the weight of the reconstruction within the term. At its default and the usual weight of 200 for the
            term, the paraphraser learns at a weight of 1, as it does by itself in the paper.
        teacher: which teacher; ``None`` takes the combination of all.

    >>> from limbeck.testing import make_exchange
    >>> exchange, term = make_exchange(teacher_taps={"mid": (6, 4, 4)}), Factor("mid")
    >>> term.prepare(exchange)
    >>> print(term.paraphraser.told, "and", term.translator.told)
    6 → 3 and 8 → 3
    """

    def __init__(
        self, at: str, *, rate: float = 0.5, paraphrase: float = 0.005, teacher: str | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        if not 0 < rate <= 1:
            raise LimbeckError(f"a factor has above 0 and up to 1 times the teacher's channels, and here {rate}")
        if not 0 < paraphrase < math.inf:
            raise LimbeckError(
                f"the paraphraser learns by its weight, a number above zero, and here it is {paraphrase}"
            )
        self.at, self.rate, self.paraphrase, self.teacher = at, rate, paraphrase, teacher
        self.paraphraser: Layers | None = None
        self.back: Layers | None = None
        self.translator: Layers | None = None

    def prepare(self, exchange: Exchange) -> None:
        """Shape paraphraser and translator by the features of ``exchange``."""
        student, teacher = (widen(said.tap(self.at)) for said in exchange.pair(self.teacher))
        require_maps(student, teacher, method="factor transfer")
        own, its = student.shape[1], teacher.shape[1]
        inside = max(1, int(self.rate * its))
        small = teacher[:, :1].expand(-1, inside, -1, -1)
        self.paraphraser = _convolutions(its, its, inside, inside, kind=nn.Conv2d, told=step(teacher, small))
        self.back = _convolutions(
            inside, inside, its, its, kind=nn.ConvTranspose2d, told=step(small, teacher)
        )  # fmt: skip
        self.translator = _convolutions(own, own, inside, inside, kind=nn.Conv2d, told=step(student, small))
        for part in (self.paraphraser, self.back, self.translator):
            part.to(student)

    def forward(self, exchange: Exchange) -> Tensor:
        """The loss of this exchange."""
        there, back, translate = (
            shaped(part, "Factor") for part in (self.paraphraser, self.back, self.translator)
        )  # fmt: skip
        student, teacher = (widen(said.tap(self.at)) for said in exchange.pair(self.teacher))
        summary = widen(there(teacher.detach()))
        error = mean_squared(widen(back(summary)), teacher.detach())
        return factor(widen(translate(student)), summary) + self.paraphrase * error

    def extra_repr(self) -> str:
        settings = f"at={self.at!r}, rate={self.rate:g}, paraphrase={self.paraphrase:g}"
        return settings + (f", teacher={self.teacher!r}" if self.teacher else "")


def _convolutions(*widths: int, kind: type[nn.Conv2d | nn.ConvTranspose2d], told: str) -> Layers:
    layers: list[nn.Module] = []
    for inside, outside in pairwise(widths):
        layers += [kind(inside, outside, 3, padding=1), nn.LeakyReLU(0.1)]
    return Layers(*layers, told=told)
