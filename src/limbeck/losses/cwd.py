"""Channel-wise distillation (CWD): KL divergence of each channel's softmax over positions.

Shu et al., ICCV 2021, https://arxiv.org/abs/2011.13256. Each channel of a sample becomes a distribution over positions,
p = softmax over positions of f / τ; the loss is τ² · mean over batch and channels of KL(teacher ‖ student). Made
for dense prediction: on spatial logits (τ 1) a channel is a class; on features the paper uses τ 4.
"""

from __future__ import annotations

import math
from typing import ClassVar, final

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule, resolve
from limbeck.losses._features import IdentityProjection, Projection, format_settings, make_projection, project_pair
from limbeck.losses._ops import require_same_shape, upcast

__all__ = ["CWDLoss", "cwd_loss"]

_SHAPE_HINT = "the class CWDLoss projects unequal channels and pools unequal maps, and the batch has to be equal"


def cwd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Mean over batch and channels of KL(teacher ‖ student) over positions at ``temperature``, times ``temperature **
    2``.

    Shapes: both ``[batch, channels, ...]`` with one or more axes of positions. Zero where each channel differs by a
    constant only; in nats.

    >>> import torch
    >>> cwd_loss(torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]]), temperature=1.0)
    tensor(0.4338)
    """
    require_same_shape(student, teacher, name="maps", hint=_SHAPE_HINT)
    if student.ndim < 3:
        raise LimbeckError(
            f"channel-wise distillation compares maps [batch, channels, ...], and these have the shape "
            f"{list(student.shape)}: tap a layer that gives positions"
        )
    _require_temperature(temperature)
    log_q, log_p = (
        F.log_softmax(features.flatten(2) / temperature, dim=2)
        for features in (upcast(student), upcast(teacher).detach())
    )
    total = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return total * (temperature**2 / max(log_q.shape[0] * log_q.shape[1], 1))


@final
class CWDLoss(nn.Module, Loss):
    """:func:`cwd_loss` of one layer of student and teacher, through a learned projection where their channels differ.

    Args:
        layer: name of the layer, the same for student and teacher; ``None`` compares the spatial logits
            of a task that has them.
        temperature: the temperature, above zero: a number, or a schedule. The paper takes 4 for features and 1 for
            logits.
        teacher: name of the teacher; ``None``: the ensemble of all.

    >>> from limbeck.testing import make_context
    >>> context, loss = make_context(), CWDLoss("mid")
    >>> loss.prepare(context)
    >>> round(loss(context).item(), 4)
    1.0376
    """

    knowledge: ClassVar = "feature"
    paper: ClassVar = "https://arxiv.org/abs/2011.13256"

    def __init__(
        self, layer: str | None = None, *, temperature: float | Schedule = 4.0, teacher: str | None = None
    ) -> None:
        super().__init__()
        if not callable(temperature):
            _require_temperature(temperature)
        self.layer, self.temperature, self.teacher = layer, temperature, teacher
        self.projection: Projection | IdentityProjection | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the projection for the maps of ``context``; none is learned between equal channels."""
        self.projection = make_projection(*map(self._get_maps, context.pair(self.teacher)))

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        maps = map(self._get_maps, context.pair(self.teacher))
        pair = project_pair(self.projection, *maps, name="CWDLoss")
        return cwd_loss(*pair, temperature=resolve(self.temperature, context.progress))

    def extra_repr(self) -> str:
        return format_settings(self, "layer", "temperature")

    def _get_maps(self, outputs: Outputs) -> Tensor:
        if self.layer is not None:
            return outputs.feature(self.layer)
        if outputs.spatial_logits is None:
            raise LimbeckError(
                "CWDLoss() compares spatial logits, and this task has none: name a layer, CWDLoss(layer='mid')"
            )
        return outputs.spatial_logits


def _require_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise LimbeckError(
            f"a temperature is a number above zero, and here it is {temperature}: let its schedule end above zero"
        )
