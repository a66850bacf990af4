"""Multi-layer perceptron on the flattened image."""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.models.options import require_positive

__all__ = ["MLP", "mlp"]


def mlp(*, hidden: tuple[int, ...] = (64,), classes: int = 10, channels: int = 1, size: int = 8) -> MLP:
    """Linear layers of the widths ``hidden`` on images of ``size`` × ``size`` pixels; empty ``hidden`` is linear.

    >>> sum(p.numel() for p in mlp().parameters())
    4810
    """
    return MLP(hidden, classes, channels, size)


@final
class MLP(nn.Module):
    """See :func:`mlp`. Maps ``[batch, channels, size, size]`` to ``[batch, classes]``.

    Feature layers: ``layer1``, ``layer2``, ..., the outputs of the linear layers before ReLU.
    """

    def __init__(self, hidden: tuple[int, ...], classes: int, channels: int, size: int) -> None:
        super().__init__()
        require_positive(classes=classes, channels=channels, size=size)
        for width in hidden:
            require_positive(**{"each width in hidden": width})
        widths = [channels * size * size, *hidden]
        self.input_shape = (channels, size, size)
        self.layer_names = tuple(f"layer{i}" for i in range(1, len(hidden) + 1))
        for name, in_features, out_features in zip(self.layer_names, widths, widths[1:], strict=False):
            self.add_module(name, nn.Linear(in_features, out_features))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``."""
        if tuple(image.shape[1:]) != self.input_shape:
            raise LimbeckError(
                f"images must be {list(self.input_shape)}, got {list(image.shape[1:])}; build the mlp with the data's "
                "size and channels"
            )
        x = image.flatten(1)
        for name in self.layer_names:
            x = F.relu(self.get_submodule(name)(x))
        logits: Tensor = self.fc(x)
        return logits
