"""Knowledge of features: the teacher's map, made again from a part of the student's (masked generative distillation).

Yang et al., MGD, ECCV 2022, https://arxiv.org/abs/2205.01529. At each step a share λ (0.65) of the positions of the
student's map is hidden, all channels together; a learned generator (3×3 convolution, ReLU, 3×3 convolution) makes the
teacher's map from the rest, and the loss is the squared difference. A 1×1 convolution comes before where the channels
differ.

The published code sums and divides by the batch, so its size depends on the map (its weight is 2e−5); here it is the
mean over all elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import Exchange
from limbeck.losses._features import Layers, Projection, Same, fitted, match_size, require_maps, shaped, step
from limbeck.losses._ops import mean_squared, require_same_shape, widen

__all__ = ["Masked", "masked"]

_DIFFER = "the class Masked projects unequal channels and pools unequal maps; the batch must be equal"


def masked(student: Tensor, teacher: Tensor, *, mask: Tensor, generator: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over all elements of (teacher − generator(student · mask))².

    Shapes: maps ``[batch, channels, height, width]`` of one size; ``mask`` ``[batch, 1, height, width]``, 1 where a
    position stays and 0 where it is hidden; ``generator`` turns the student's channels into the teacher's.

    >>> import torch
    >>> student, teacher = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.0, 3.0]]]])
    >>> masked(student, teacher, mask=torch.tensor([[[[1.0, 0.0]]]]), generator=torch.nn.Identity())
    tensor(4.5000)
    """
    require_maps(student, teacher, method="masked generation")
    if mask.shape != (len(student), 1, *student.shape[2:]):
        raise LimbeckError(
            f"the mask of maps {list(student.shape)} is [batch, 1, height, width], and its shape is {list(mask.shape)}"
        )
    made = widen(generator(widen(student) * mask))
    require_same_shape(made, teacher, what="generated maps", hint=_DIFFER)
    return mean_squared(made, widen(teacher).detach())


@final
class Masked(nn.Module):
    """:func:`masked` between two tapped layers, by a generator the term learns.

    Arguments:
        at: the name of the tap, given to the student and to the teacher alike.
        hidden: λ, the share of positions that is hidden, from 0 to below 1; drawn anew at each step from torch's own
            random numbers, as dropout does.
        teacher: which teacher; ``None`` takes the combination of all.

    >>> from limbeck.testing import make_exchange
    >>> exchange, term = make_exchange(teacher_taps={"mid": (6, 4, 4)}), Masked("mid")
    >>> term.prepare(exchange)
    >>> sum(parameter.numel() for parameter in term.parameters())  # 8·6 + 6, and 2 · (6·6·9 + 6)
    714
    """

    def __init__(self, at: str, *, hidden: float = 0.65, teacher: str | None = None) -> None:
        super().__init__()
        if not 0 <= hidden < 1:
            raise LimbeckError(f"the share of hidden positions is from 0 to below 1, and here it is {hidden}")
        self.at, self.hidden, self.teacher = at, hidden, teacher
        self.projection: Projection | Same | None = None
        self.generator: Layers | None = None

    def prepare(self, exchange: Exchange) -> None:
        """Shape projection and generator by the features of ``exchange``."""
        student, teacher = (said.tap(self.at) for said in exchange.pair(self.teacher))
        require_maps(student, teacher, method="masked generation")
        self.projection = fitted(student, teacher)
        width = teacher.shape[1]
        generator = Layers(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
            told=step(teacher, teacher),
        )  # fmt: skip
        self.generator = generator.to(widen(student))

    def forward(self, exchange: Exchange) -> Tensor:
        """The loss of this exchange."""
        projection, generator = shaped(self.projection, "Masked"), shaped(self.generator, "Masked")
        student, teacher = exchange.pair(self.teacher)
        own, its = match_size(widen(projection(widen(student.tap(self.at)))), widen(teacher.tap(self.at)))
        draws = torch.rand(len(own), 1, *own.shape[2:], device=own.device, dtype=own.dtype)
        return masked(own, its, mask=(draws >= self.hidden).to(own), generator=generator)

    def extra_repr(self) -> str:
        return f"at={self.at!r}, hidden={self.hidden:g}" + (f", teacher={self.teacher!r}" if self.teacher else "")
