"""Be your own teacher (BYOT): classifiers on shallow layers distill from the deepest one.

Zhang et al., ICCV 2019, https://arxiv.org/abs/1905.08094. The loss of each shallow classifier is (1 − α) · CE +
α · τ² · KL(deepest ‖ itself) + β · ‖its feature − the deepest‖², without a gradient to the deepest classifier; α 0.1,
τ 3. The squared difference is the mean over all elements, so β = 0.07 corresponds to the 1e−6 of code that sums over a
batch of 128 and 512 channels. Add ``CrossEntropyLoss`` for the deepest classifier. A head is one separable 3×3
convolution with BatchNorm, the mean over positions, and a linear layer; the paper's heads are deeper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._features import channels_first, match_size, require_prepared
from limbeck.losses._logits import cross_entropy, kl_mean, log_softmax_pair, require_temperature
from limbeck.losses._ops import mean_squared_error, require_interval, upcast
from limbeck.losses._sequences import refuse_padding


def byot_loss(
    head_logits: Sequence[Tensor],
    deepest_logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.1,
    temperature: float = 3.0,
) -> Tensor:
    """Sum over ``head_logits`` of (1 − ``alpha``) · CE(head) + ``alpha`` · τ² · KL(deepest ‖ head), means over rows.

    Shapes: each head and ``deepest_logits`` ``[rows, classes]`` logits; ``target`` ``[rows]`` class indices (−100: no
    label, KL only) or ``[rows, classes]`` probabilities. No gradient to ``deepest_logits``; in nats.

    >>> import torch
    >>> head, deepest = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> byot_loss([head], deepest, torch.tensor([0]), alpha=0.5, temperature=1.0)
    tensor(0.2804)
    """
    require_interval("alpha", alpha, "[0, 1]")
    if not head_logits:
        raise LimbeckError("byot_loss needs at least one shallow classifier")
    total = upcast(deepest_logits).new_zeros(())
    for head in head_logits:
        log_q, log_p, _ = log_softmax_pair(head, deepest_logits, temperature)
        kd = kl_mean(log_q, log_p, temperature)
        total = total + (1 - alpha) * cross_entropy(upcast(head), target) + alpha * kd
    return total


@final
class BYOTLoss(nn.Module, Loss):
    """:func:`byot_loss` of learned heads on hidden layers, plus the distance of their features to the deepest layer.

    Args:
        layers: the student's layers that get a head, from shallow to deep.
        deepest_layer: the student's layer whose features are the target of theirs; ``None`` compares no features.
        alpha: weight of the deepest classifier against the target.
        temperature: the temperature, above zero.
        beta: weight of the mean squared difference of features, maps average-pooled to one size.

    Layers return ``[batch, channels, height, width]``, ``[batch, tokens, width]`` or ``[batch, width]``. Once trained,
    each head is an early exit: :func:`limbeck.distiller.early_exits`.
    """

    knowledge: ClassVar = "self"
    uses_softmax: ClassVar = True
    layer_settings: ClassVar = ("layers", "deepest_layer")
    paper: ClassVar = "https://arxiv.org/abs/1905.08094"
    needs_target: ClassVar = True
    needs_teacher: ClassVar = False
    has_exits: ClassVar = True
    fn: ClassVar = staticmethod(byot_loss)

    def __init__(
        self, layers: Sequence[str], *, deepest_layer: str | None = None, alpha: float = 0.1, temperature: float = 3.0,
        beta: float = 0.07,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers = tuple(layers)
        if isinstance(layers, str) or not self.layers or len(set(self.layers)) < len(self.layers):
            raise LimbeckError(f"layers must be a list of layer names, each once, got {layers!r}")
        require_interval("alpha", alpha, "[0, 1]")
        require_interval("beta", beta, "[0, inf)")
        require_temperature(temperature)
        self.deepest_layer, self.alpha, self.temperature, self.beta = deepest_layer, alpha, temperature, beta
        self.heads: nn.ModuleList | None = None

    def prepare(self, context: LossContext) -> None:
        student = context.student
        refuse_padding(context, student.feature(self.layers[0]), loss="BYOTLoss")
        deepest_features = None if self.deepest_layer is None else student.feature(self.deepest_layer)
        classes = student.require_logits().shape[1]
        self.heads = nn.ModuleList(_ExitHead(student.feature(name), deepest_features, classes) for name in self.layers)

    def head(self, name: str) -> nn.Module:
        """The head of the layer ``name``: maps its features to logits and the feature below them."""
        heads = require_prepared(self.heads, "BYOTLoss")
        if name not in self.layers:
            raise LimbeckError(f"no head is on the layer {name!r}; available: {suggest_names(name, self.layers)}")
        return heads[self.layers.index(name)]

    def forward(self, context: LossContext) -> Tensor:
        student, target = context.student, context.require_target()
        head_logits, head_features = zip(*(self.head(name)(student.feature(name)) for name in self.layers), strict=True)
        logits = student.require_logits()
        loss = byot_loss(head_logits, logits, target, alpha=self.alpha, temperature=self.temperature)
        if self.deepest_layer is None or not self.beta:
            return loss
        deepest_features = upcast(student.feature(self.deepest_layer)).detach()
        pairs = (match_size(upcast(features), deepest_features) for features in head_features)
        return loss + self.beta * sum(mean_squared_error(*pair) for pair in pairs)

    def extra_repr(self) -> str:
        names = ("layers", "deepest_layer", "alpha", "temperature", "beta")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


@final
class _ExitHead(nn.Module):
    """A feature of the deepest layer's width (or of its own), the mean over positions, and a linear layer."""

    def __init__(self, features: Tensor, deepest_features: Tensor | None, classes: int) -> None:
        super().__init__()
        deepest = features if deepest_features is None else deepest_features
        if features.ndim not in (2, 3, 4) or deepest.ndim != features.ndim:
            raise LimbeckError(
                "a head needs [batch, channels, height, width], [batch, tokens, width] or [batch, width], got "
                f"{list(features.shape)}, and {list(deepest.shape)} at the deepest: use layers of one rank"
            )
        in_channels, out_channels = channels_first(features).shape[1], channels_first(deepest).shape[1]
        self.widths = (in_channels, out_channels, classes)
        # Depthwise separable: an exit must cost less than the layers it skips.
        body: list[nn.Module] = (
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
        mean = channels_first(feature).flatten(2).mean(dim=2) if feature.ndim > 2 else feature
        return self.classifier(mean), feature

    def extra_repr(self) -> str:
        return " → ".join(map(str, self.widths))
