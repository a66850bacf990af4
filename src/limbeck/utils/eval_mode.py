"""Evaluation mode for a block of code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["eval_mode"]


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Runs a block with ``model`` in eval mode and without gradients; restores the mode of every module.

    >>> model = nn.Dropout()
    >>> with eval_mode(model): inside = model.training
    >>> inside, model.training
    (False, True)
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
