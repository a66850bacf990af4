"""Be your own teacher (BYOT): classifiers on shallow layers distill from the deepest one.

Zhang et al., ICCV 2019, https://arxiv.org/abs/1905.08094. The loss of each shallow classifier is (1 − α) · CE +
α · τ² · KL(deepest ‖ itself) + β · ‖its feature − the deepest‖², without a gradient to the deepest classifier; α 0.1,
τ 3. Reference code sums the squared differences over the batch and weights them by 1e−6; this is the mean over all
elements, and β = 0.07 corresponds to a batch of 128 and 512 channels. Add ``CrossEntropyLoss`` for the deepest
classifier. A head is one separable 3×3 convolution with BatchNorm, the mean over positions, and a linear layer; the
paper's heads are deeper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import match_size
from limbeck.losses._ops import mean_squared_error, require_same_shape, upcast

__all__ = ["BYOTLoss", "byot_loss"]

_IGNORE_INDEX: Final = -100


def byot_loss(
    head_logits: Sequence[Tensor],
    deepest_logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.1,
    temperature: float = 3.0,
) -> Tensor:
    """Sum over ``head_logits`` of (1 − ``alpha``) · CE(head) + ``alpha`` · τ² · KL(deepest ‖ head), means over rows.

    Shapes: each head and ``deepest_logits`` ``[rows, classes]`` logits; ``target`` ``[rows]`` class numbers (−100: no
        label,
    then only the deepest is followed) or ``[rows, classes]`` probabilities. No gradient to ``deepest_logits``; in nats.

    >>> head, deepest = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> byot_loss([head], deepest, torch.tensor([0]), alpha=0.5, temperature=1.0)
    tensor(0.2804)
    """
    if not 0 <= alpha <= 1:
        raise LimbeckError(f"alpha is the share of the deepest classifier, from 0 to 1, not {alpha}")
    if not 0 < temperature < math.inf:
        raise LimbeckError(f"a temperature is a number above zero, and here it is {temperature}")
    if not head_logits:
        raise LimbeckError("byot_loss needs at least one shallow classifier")
    deepest_logits = upcast(deepest_logits).detach()
    min_value = torch.finfo(deepest_logits.dtype).min
    log_p = F.log_softmax(deepest_logits / temperature, dim=1).clamp(min=min_value)
    total = deepest_logits.new_zeros(())
    for head in map(upcast, head_logits):
        require_same_shape(
            head, deepest_logits, name="logits", hint="each head has a row and the classes of the deepest one"
        )
        log_q = F.log_softmax(head / temperature, dim=1).clamp(min=min_value)
        kd = F.kl_div(log_q, log_p, reduction="sum", log_target=True) * (temperature**2 / max(len(head), 1))
        total = total + (1 - alpha) * _target_loss(head, target) + alpha * kd
    return total


@final
class BYOTLoss(nn.Module, Loss):
    """:func:`byot_loss` of learned heads on hidden layers, plus the distance of their features to the deepest layer.

    Args:
        layers: the student's layers that get a head, from shallow to deep.
        deepest_layer: the student's layer whose features are the target of theirs; ``None`` compares no features.
        alpha: weight of the deepest classifier against the target.
        temperature: the temperature, above zero.
        beta: of the features: mean over all elements of the squared difference, maps average-pooled to one size.

    Layers give ``[batch, channels, height, width]``, ``[batch, tokens, width]`` or ``[batch, width]``. Once trained,
    each head is an early exit: :func:`limbeck.distiller.early_exits`.
    """

    knowledge: ClassVar = "self"
    paper: ClassVar = "https://arxiv.org/abs/1905.08094"
    needs_target: ClassVar = True
    needs_teacher: ClassVar = False
    deployed: ClassVar = True

    def __init__(
        self, layers: Sequence[str], *, deepest_layer: str | None = None, alpha: float = 0.1, temperature: float = 3.0,
        beta: float = 0.07,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers = tuple(layers)
        if isinstance(layers, str) or not self.layers or len(set(self.layers)) < len(self.layers):
            raise LimbeckError(f"`layers` names the layers to put a head on, each once, and it is {layers!r}")
        if not 0 <= alpha <= 1 or not 0 < temperature < math.inf or not 0 <= beta < math.inf:
            raise LimbeckError(
                f"alpha is a share from 0 to 1, temperature above zero and beta from zero, not {alpha}, "
                f"{temperature} and {beta}"
            )
        self.deepest_layer, self.alpha, self.temperature, self.beta = deepest_layer, alpha, temperature, beta
        self.heads = nn.ModuleList()

    def prepare(self, context: LossContext) -> None:
        """Build a head for each layer."""
        student = context.student
        deepest_features = None if self.deepest_layer is None else student.feature(self.deepest_layer)
        classes = student.require_logits().shape[1]
        self.heads = nn.ModuleList(_ExitHead(student.feature(name), deepest_features, classes) for name in self.layers)

    def head(self, name: str) -> nn.Module:
        """The head of the layer ``name``: maps its features to logits and the feature below them."""
        if not len(self.heads):
            raise LimbeckError("BYOTLoss has no heads yet: call distiller.prepare(batch) before building the optimizer")
        if name not in self.layers:
            raise LimbeckError(f"no head stands on {name!r}; there are: {suggest_names(name, self.layers)}")
        return self.heads[self.layers.index(name)]

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        student = context.student
        head_outputs = [self.head(name)(student.feature(name)) for name in self.layers]
        loss = byot_loss(
            [logits for logits, _ in head_outputs],
            student.require_logits(),
            context.require_target(),
            alpha=self.alpha,
            temperature=self.temperature,
        )
        if self.deepest_layer is None or not self.beta:
            return loss
        deepest_features = upcast(student.feature(self.deepest_layer)).detach()
        return loss + self.beta * sum(
            mean_squared_error(*match_size(upcast(feature), deepest_features)) for _, feature in head_outputs
        )

    def extra_repr(self) -> str:
        return (
            f"layers={self.layers}, deepest_layer={self.deepest_layer!r}, "
            f"alpha={self.alpha}, "
            f"temperature={self.temperature}, beta={self.beta}"
        )


@final
class _ExitHead(nn.Module):
    """A feature of the deepest one's width (its own where there is none), the mean over positions, and a linear
    layer.
    """

    def __init__(self, features: Tensor, deepest_features: Tensor | None, classes: int) -> None:
        super().__init__()
        if features.ndim not in (2, 3, 4) or (deepest_features is not None and deepest_features.ndim != features.ndim):
            deepest_text = "" if deepest_features is None else f", and the deepest {list(deepest_features.shape)}"
            raise LimbeckError(
                "a head stands on [batch, channels, height, width], [batch, tokens, width] or [batch, width], and this "
                f"tap gives {list(features.shape)}{deepest_text}: tap layers of one rank"
            )
        axis = 1 if features.ndim == 4 else -1
        in_channels, out_channels = (
            features.shape[axis],
            (features if deepest_features is None else deepest_features).shape[axis],
        )
        self.widths = (in_channels, out_channels, classes)
        body: list[nn.Module] = (
            # Depthwise separable: an exit must cost less than the layers it skips.
            [
                nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            ]
            if features.ndim == 4
            else [nn.Linear(in_channels, out_channels)]
        )
        self.body = nn.Sequential(*body, nn.ReLU()).to(upcast(features))
        self.classifier = nn.Linear(out_channels, classes).to(upcast(features))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[batch, classes]`` and the feature below them."""
        feature: Tensor = self.body(features.to(self.classifier.weight.dtype))
        mean = feature.mean(dim=(2, 3)) if feature.ndim == 4 else feature.mean(dim=1) if feature.ndim == 3 else feature
        return self.classifier(mean), feature

    def extra_repr(self) -> str:
        return " → ".join(map(str, self.widths))


def _target_loss(student: Tensor, target: Tensor) -> Tensor:
    """Mean over the labeled rows of −log q(target)."""
    if target.ndim == 1:
        total = F.cross_entropy(student, target.long(), ignore_index=_IGNORE_INDEX, reduction="sum")
        return total / (target != _IGNORE_INDEX).sum().clamp(min=1)
    log_q = F.log_softmax(student, dim=1).masked_fill(target == 0, 0.0)
    return -(target.to(student) * log_q).sum() / (target != 0).any(dim=1).sum().clamp(min=1)
