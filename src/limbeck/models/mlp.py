"""The plainest network: linear layers with ReLU between them, on the pixels as they come."""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.models.checks import at_least

__all__ = ["MLP", "mlp"]


def mlp(*, hidden: tuple[int, ...] = (64,), classes: int = 10, channels: int = 1, size: int = 8) -> MLP:
    """Linear layers of the widths ``hidden`` on pictures of ``size`` × ``size`` pixels; empty ``hidden`` is linear.

    >>> sum(p.numel() for p in mlp().parameters())
    4810
    """
    return MLP(hidden=hidden, classes=classes, channels=channels, size=size)


@final
class MLP(nn.Module):
    """See :func:`mlp`. Takes ``[batch, channels, size, size]``, gives ``[batch, classes]``.

    Tap ``layer1``, ``layer2``, ...: what the linear layer gave, before ReLU.
    """

    def __init__(self, *, hidden: tuple[int, ...] = (64,), classes: int = 10, channels: int = 1, size: int = 8) -> None:
        super().__init__()
        at_least(1, classes=classes, channels=channels, size=size)
        for width in hidden:
            at_least(1, **{"each width in hidden": width})
        widths = [channels * size * size, *hidden]
        self.takes = (channels, size, size)
        self.layers = tuple(f"layer{number}" for number in range(1, len(hidden) + 1))
        for name, before, after in zip(self.layers, widths, widths[1:], strict=False):
            self.add_module(name, nn.Linear(before, after))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, picture: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``."""
        if tuple(picture.shape[1:]) != self.takes:
            raise LimbeckError(
                f"this mlp takes pictures of {list(self.takes)}, and got {list(picture.shape[1:])}: "
                "build it with the size and channels of the data"
            )
        values = picture.flatten(1)
        for name in self.layers:
            values = F.relu(self.get_submodule(name)(values))
        logits: Tensor = self.fc(values)
        return logits
