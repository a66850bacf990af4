"""Channel-wise distillation (CWD): KL divergence of each channel's softmax over positions.

Shu et al., ICCV 2021, https://arxiv.org/abs/2011.13256. Each channel of a sample becomes a distribution over positions,
p = softmax over positions of f / τ; the loss is τ² · mean over batch and channels of KL(teacher ‖ student). Made
for dense prediction: on spatial logits (τ 1) a channel is a class; on features the paper uses τ 4.
"""

from __future__ import annotations

from typing import ClassVar, Final, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.schedules import Schedule, resolve
from limbeck.losses._bases import ProjectedFeatureLoss
from limbeck.losses._features import channels_first, require_same_features
from limbeck.losses._logits import require_temperature
from limbeck.losses._ops import upcast
from limbeck.losses._sequences import fill_padding, pair_features

_NO_PROBABILITY: Final = -1e30


def cwd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Mean over batch and channels of KL(teacher ‖ student) over positions at ``temperature``, times its square.

    Shapes: both ``[batch, channels, ...]`` with one or more axes of positions. Zero where each channel differs by a
    constant only; in nats.

    >>> import torch
    >>> cwd_loss(torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]]), temperature=1.0)
    tensor(0.4338)
    """
    require_same_features(student, teacher, loss="CWDLoss")
    require_temperature(temperature)
    if student.ndim < 3:
        raise LimbeckError(
            f"channel-wise distillation compares maps [batch, channels, ...], got {list(student.shape)}: use a layer "
            "that returns positions"
        )
    log_q, log_p = (
        F.log_softmax(maps.flatten(2) / temperature, dim=2) for maps in (upcast(student), upcast(teacher).detach())
    )
    total = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return total * (temperature**2 / max(log_q.shape[0] * log_q.shape[1], 1))


@final
class CWDLoss(ProjectedFeatureLoss):
    """:func:`cwd_loss` of one layer, the student's through a learned projection where channels differ.

    Args:
        layer: name of the layer, the same for student and teacher; ``None`` compares the spatial logits.
        temperature: a number above zero, or a schedule. The paper has 4 for features and 1 for logits.
    """

    paper: ClassVar = "https://arxiv.org/abs/2011.13256"
    fn: ClassVar = staticmethod(cwd_loss)
    settings: ClassVar = ("layer", "temperature")
    compares_positions: ClassVar = False

    layer: str | None  # type: ignore[assignment]

    def __init__(
        self, layer: str | None = None, *, temperature: float | Schedule = 4.0, teacher: str | None = None
    ) -> None:
        super().__init__(layer or "", teacher=teacher)
        require_temperature(temperature)
        self.layer, self.temperature = layer, temperature

    def features(self, context: LossContext) -> tuple[Tensor, Tensor]:
        if self.layer is not None:
            return super().features(context)
        student, teacher = context.pair(self.teacher)
        if student.spatial_logits is None or teacher.spatial_logits is None:
            raise LimbeckError(
                "CWDLoss() compares spatial logits, and this task, or the ensemble of its teachers, has none: name a "
                "layer, CWDLoss(layer='mid'), or with several teachers one of them, CWDLoss(teacher='big')"
            )
        return student.spatial_logits, teacher.spatial_logits

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context; the padding of sequences gets no probability."""
        if self.layer is None:
            return super().forward(context)
        pair = pair_features(context, self.layer, self.teacher).matched()
        if pair.student_mask is None:
            return super().forward(context)
        student = fill_padding(self.project(pair.student), pair.student_mask, _NO_PROBABILITY)
        teacher = fill_padding(upcast(pair.teacher), pair.teacher_mask, _NO_PROBABILITY)
        return self.compare(channels_first(student), channels_first(teacher), context)

    def compare(self, student: Tensor, teacher: Tensor, context: LossContext) -> Tensor:
        return cwd_loss(student, teacher, temperature=resolve(self.temperature, context.progress))
