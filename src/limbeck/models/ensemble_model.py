"""Several networks as one: the mean of their probabilities, as logits (what an ensemble's vote is)."""

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
    """Gives the logarithm of the mean of the members' probabilities, ``[batch, classes]``.

    Arguments:
        members: networks of the same classes, which give logits as a tensor.

    >>> sure = nn.Linear(1, 2)
    >>> with torch.no_grad():
    ...     _ = (sure.weight.zero_(), sure.bias.copy_(torch.tensor([1.0986123, 0.0])))
    >>> even = nn.Linear(1, 2)
    >>> with torch.no_grad():
    ...     _ = (even.weight.zero_(), even.bias.zero_())
    >>> EnsembleModel([sure, even])(torch.zeros(1, 1)).exp()  # (3/4, 1/4) and (1/2, 1/2)
    tensor([[0.6250, 0.3750]], grad_fn=<ExpBackward0>)
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(members) < 2:
            raise LimbeckError(f"an ensemble has at least two members, not {len(members)}")
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: Tensor) -> Tensor:
        """What they say together."""
        log_probs = torch.stack([F.log_softmax(member(*inputs).float(), dim=1) for member in self.members])
        return log_probs.logsumexp(dim=0) - math.log(len(self.members))
