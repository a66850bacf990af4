"""Ensembles of networks as one network: the mean of their probabilities, or of their outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from limbeck.core.errors import LimbeckError

__all__ = ["EnsembleModel", "MeanOutputModel", "OutputShapeError"]


class OutputShapeError(LimbeckError):
    """Networks of an ensemble have outputs of different shapes."""


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


@final
class MeanOutputModel(nn.Module):
    """Returns the mean of the members' outputs, such as maps of logits or predicted numbers.

    Args:
        members: networks of the same inputs whose outputs have the same structure and shapes; other outputs than floats
            are those of the first.

    >>> MeanOutputModel([nn.Identity(), nn.Hardtanh()])(torch.tensor([3.0]))
    tensor([2.])
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The mean.

        Raises:
            OutputShapeError: the outputs have different structures or shapes.
        """
        trees = [tree_flatten(member(*args, **kwargs)) for member in self.members]
        leaves, spec = zip(*(tree[0] for tree in trees), strict=False), trees[0][1]
        shapes = [[getattr(leaf, "shape", None) for leaf in tree[0]] for tree in trees]
        if any(tree[1] != spec for tree in trees) or any(shape != shapes[0] for shape in shapes):
            raise OutputShapeError(f"members of an ensemble must have outputs of the same shapes, got {shapes}")
        return tree_unflatten([_mean(values) for values in leaves], spec)


def _mean(values: Sequence[Any]) -> Any:
    is_float = isinstance(values[0], Tensor) and values[0].is_floating_point()
    return torch.stack(list(values)).mean(dim=0) if is_float else values[0]
