"""How unsure an answer is, from 0 (one class for certain) to 1 (a guess), by row."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.losses._ops import widen

__all__ = ["doubt_share", "entropy_share", "possible"]


def entropy_share(logits: Tensor) -> Tensor:
    """The entropy of each row's softmax over that of a guess among its possible classes, ``[rows]``.

    Shapes: ``[rows, classes]``; a class of logit −inf is no possible one.

    >>> entropy_share(torch.tensor([[0.0, 0.0, -torch.inf], [1.0986, 0.0, -torch.inf]]))  # odds of 1 and of 3
    tensor([1.0000, 0.8113])
    """
    logits = widen(logits)
    log_p = logits.log_softmax(dim=1)
    entropy = -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(dim=1)
    return (entropy / _classes(logits).log()).clamp(0.0, 1.0)


def doubt_share(logits: Tensor) -> Tensor:
    """How far each row's largest probability is from 1, as a share of how far that of a guess is, ``[rows]``.

    >>> doubt_share(torch.tensor([[0.0, 0.0], [1e4, 0.0]]))
    tensor([1., 0.])
    """
    logits = widen(logits)
    most = logits.softmax(dim=1).amax(dim=1)
    return ((1.0 - most) / (1.0 - 1.0 / _classes(logits))).clamp(0.0, 1.0)


def possible(logits: Tensor) -> Tensor:
    """Which classes can be: those of a logit above −inf, ``[rows, classes]`` booleans."""
    return logits != -torch.inf


def _classes(logits: Tensor) -> Tensor:
    return possible(logits).sum(dim=1).clamp(min=2).to(logits.dtype)
