"""The holistic part of structured knowledge distillation (SKD): a critic that tells the networks' predictions apart.

Liu et al., CVPR 2019, https://arxiv.org/abs/1903.04197, Eq. 5, a Wasserstein GAN with a gradient penalty (Gulrajani et
al., 2017, https://arxiv.org/abs/1704.00028). A critic D maps the class probabilities of an image to a number; the
distance of student and teacher is

    W = mean over images of D(teacher) − D(student)

The student minimizes W, and the critic minimizes −W + gradient_penalty · mean over images of (‖∇D(x)‖ − 1)², where x is
a random point between the probabilities of student and teacher. Both are one step of one optimizer: the gradient of W
reaches the parameters of the critic with the opposite sign. So did the published code, which takes one step of each, on
the same outputs of the student. The published weight is 0.1, for critic and student alike. Choices:

- The critic sees probabilities; the published code normalizes logits. The paper gives it the image too, which its code
  does not, and which a loss has not.
- The critic is smaller, and has no spectral normalization: four convolutions of stride 2 with self-attention after the
  last two, and a linear layer at each position, averaged.
- It is trained with the learning rate of the student; the paper gives it its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._bases import format_settings
from limbeck.losses._features import match_size, require_prepared
from limbeck.losses._ops import require_interval, require_same_shape, row_mean, upcast

Critic = Callable[[Tensor], Tensor]
_MAX_LAYERS = 4


def skd_holistic_loss(student: Tensor, teacher: Tensor, *, critic: Critic) -> Tensor:
    """Mean over images of ``critic`` at the teacher's probabilities minus that at the student's.

    Shapes: ``[batch, classes, height, width]`` probabilities each; ``critic`` returns ``[batch]``. Zero where they
    agree, and may be negative.

    >>> critic = lambda maps: maps[:, 0].sum(dim=(1, 2))
    >>> skd_holistic_loss(torch.full((1, 2, 1, 2), 0.5), torch.tensor([[[[1.0, 0.75]], [[0.0, 0.25]]]]), critic=critic)
    tensor(0.7500)
    """
    require_same_shape(student, teacher, name="probabilities", hint="use networks of the same classes")
    from_student, from_teacher = critic(torch.cat([upcast(student), upcast(teacher).detach()])).chunk(2)
    return row_mean(from_teacher - from_student)


def gradient_penalty(student: Tensor, teacher: Tensor, mixture: Tensor, *, critic: Critic) -> Tensor:
    """Mean over images of (‖∇ ``critic``‖ − 1)², at ``mixture`` · student + (1 − ``mixture``) · teacher.

    Shapes: ``[batch, classes, height, width]`` probabilities each, ``mixture`` ``[batch]`` in 0..1. Its gradient
    reaches the critic only.

    >>> maps = torch.zeros(1, 2, 1, 2)
    >>> weight = torch.tensor(3.0, requires_grad=True)  # a norm of 2 · 3
    >>> gradient_penalty(maps, maps, torch.ones(1), critic=lambda maps: weight * maps.sum(dim=(1, 2, 3))).detach()
    tensor(25.)
    """
    share = mixture[:, None, None, None]
    points = (share * upcast(student) + (1 - share) * upcast(teacher)).detach().requires_grad_()
    (gradients,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    # The norm of zeros has no gradient.
    norms = gradients.square().flatten(1).sum(dim=1).clamp(min=torch.finfo(gradients.dtype).tiny).sqrt()
    return row_mean((norms - 1).square())


@final
class SKDHolisticLoss(nn.Module, Loss):
    """:func:`skd_holistic_loss` of the spatial logits, by a critic that is trained against the student.

    Its value is W, which rises while the critic learns and falls while the student does. The critic has the optimizer,
    learning rate and weight decay of the student, and its gradient is multiplied by the weight of the loss.

    Args:
        gradient_penalty: factor of :func:`gradient_penalty`, above zero; published as 10.
        width: channels of the first layer of the critic; the others have up to 8 times as many. Published as 64.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "response"
    paper: ClassVar = "https://arxiv.org/abs/1903.04197"
    uses_softmax: ClassVar = True
    fn: ClassVar = staticmethod(skd_holistic_loss)

    def __init__(self, *, gradient_penalty: float = 10.0, width: int = 16, teacher: str | None = None) -> None:
        super().__init__()
        require_interval("gradient_penalty", gradient_penalty, "(0, inf)")
        require_interval("width", width, "[1, inf)")
        self.gradient_penalty, self.width, self.teacher = gradient_penalty, width, teacher
        self.critic: nn.Module | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the critic for the spatial logits of ``context``."""
        student, _ = self._probabilities(context)
        self.critic = _MapCritic(student, self.width)

    def forward(self, context: LossContext) -> Tensor:
        """W of this context, with the gradient of the critic."""
        module = require_prepared(self.critic, "SKDHolisticLoss")
        student, teacher = self._probabilities(context)
        parameters = {name: upcast(parameter) for name, parameter in module.named_parameters()}
        dtype = next(iter(parameters.values())).dtype
        student, teacher = student.to(dtype), teacher.to(dtype)
        # The value of the parameter, with the opposite gradient.
        reverse = {name: 2 * parameter.detach() - parameter for name, parameter in parameters.items()}
        loss = skd_holistic_loss(student, teacher, critic=lambda maps: functional_call(module, reverse, (maps,)))
        if not torch.is_grad_enabled():
            return loss
        mixture = torch.rand(len(student), device=student.device, dtype=student.dtype)
        penalty = self.gradient_penalty * gradient_penalty(
            student, teacher, mixture, critic=lambda maps: functional_call(module, parameters, (maps,))
        )
        return loss + (penalty - penalty.detach())

    def extra_repr(self) -> str:
        return format_settings(self, "gradient_penalty", "width")

    def _probabilities(self, context: LossContext) -> tuple[Tensor, Tensor]:
        """The class probabilities of student and teacher at one size, ``[batch, classes, height, width]``."""
        student, teacher = (outputs.spatial_logits for outputs in context.pair(self.teacher))
        if student is None or teacher is None:
            raise LimbeckError(
                "SKDHolisticLoss() compares spatial logits, and this task, or the ensemble of its teachers, has none: "
                "use the task Segmentation, or with several teachers name one of them, SKDHolisticLoss(teacher='big')"
            )
        return match_size(upcast(student).softmax(dim=1), upcast(teacher).detach().softmax(dim=1))


@final
class _MapCritic(nn.Module):
    """A number for each of ``[batch, classes, height, width]`` maps, ``[batch]``."""

    def __init__(self, reference: Tensor, width: int) -> None:
        super().__init__()
        layers, channels, side = list[nn.Module](), reference.shape[1], min(reference.shape[2:])
        # A map is halved while it has two pixels in both directions.
        num_layers = min(_MAX_LAYERS, side.bit_length() - 1)
        for i in range(num_layers):
            layers += [nn.Conv2d(channels, width * 2**i, 4, stride=2, padding=1), nn.LeakyReLU(0.1)]
            channels = width * 2**i
            if i >= num_layers - 2:
                layers.append(_SelfAttention(channels))
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 1)).to(reference)

    def forward(self, maps: Tensor) -> Tensor:
        scores: Tensor = self.layers(maps)
        return scores.mean(dim=(1, 2, 3))


@final
class _SelfAttention(nn.Module):
    """Attention of the positions of a map to each other, added with a learned factor that starts at zero.

    Zhang et al., 2019, https://arxiv.org/abs/1805.08318.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        key_channels = max(channels // 8, 1)
        self.query, self.key = nn.Conv2d(channels, key_channels, 1), nn.Conv2d(channels, key_channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.factor = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor) -> Tensor:
        query, key, value = (layer(maps).flatten(2) for layer in (self.query, self.key, self.value))
        attention = F.softmax(query.mT @ key, dim=2)
        output: Tensor = maps + self.factor * (value @ attention.mT).reshape_as(maps)
        return output
