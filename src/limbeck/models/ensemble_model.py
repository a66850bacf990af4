"""An ensemble of networks as one network: the mean of their probabilities, as logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError

__all__ = ["EnsembleModel"]


@final
class EnsembleModel(nn.Module):
    """Returns the logarithm of the mean of the members' probabilities, ``[batch, classes]``.

    Args:
        members: networks of the same classes, which return logits as a tensor.

    >>> ensemble = EnsembleModel([nn.Identity(), nn.Identity()])
    >>> ensemble(torch.tensor([[0.0, 0.0]])).exp()
    tensor([[0.5000, 0.5000]])
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(members) < 2:
            raise LimbeckError(f"an ensemble must have at least two members, got {len(members)}")
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``."""
        log_probs = torch.stack([F.log_softmax(member(*inputs).float(), dim=1) for member in self.members])
        return log_probs.logsumexp(dim=0) - math.log(len(self.members))
