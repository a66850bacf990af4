"""Uncertainty of predictions by row, from 0 (one class has probability 1) to 1 (uniform)."""

from __future__ import annotations

from torch import Tensor

from limbeck.losses._logits import clamped_log_softmax
from limbeck.losses._ops import upcast


def normalized_entropy(logits: Tensor) -> Tensor:
    """The entropy of each row's softmax divided by that of the uniform distribution, ``[rows]``.

    Shapes: ``[rows, classes]``; a class of logit −inf is invalid.

    >>> import torch
    >>> normalized_entropy(torch.tensor([[0.0, 0.0, -torch.inf], [1.0986, 0.0, -torch.inf]]))  # odds of 1 and of 3
    tensor([1.0000, 0.8113])
    """
    log_p = clamped_log_softmax(upcast(logits))
    entropy = -(log_p.exp() * log_p).sum(dim=1)
    return (entropy / _num_valid_classes(logits).log()).clamp(0.0, 1.0)


def least_confidence(logits: Tensor) -> Tensor:
    """1 − the largest probability of each row, divided by its value for a uniform distribution, ``[rows]``.

    >>> import torch
    >>> least_confidence(torch.tensor([[0.0, 0.0], [1e4, 0.0]]))
    tensor([1., 0.])
    """
    max_probability = upcast(logits).softmax(dim=1).amax(dim=1)
    return ((1.0 - max_probability) / (1.0 - 1.0 / _num_valid_classes(logits))).clamp(0.0, 1.0)


def valid_class_mask(logits: Tensor) -> Tensor:
    """``[rows, classes]`` booleans, false for logits of −inf."""
    return logits != -float("inf")


def _num_valid_classes(logits: Tensor) -> Tensor:
    return valid_class_mask(logits).sum(dim=1).clamp(min=2).to(upcast(logits).dtype)
