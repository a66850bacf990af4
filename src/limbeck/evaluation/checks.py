"""Logits and targets by row, as every figure takes them: checked once, and the rows that have a label."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.data.split import UNLABELLED

__all__ = ["checked", "evaluating", "labelled", "require_pixels", "said"]


def checked(logits: Tensor, *, whose: str) -> Tensor:
    """``logits`` (``[n, classes]``, floats) on the CPU without a graph, or one sentence on what is wrong with them."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise LimbeckError(f"{whose} logits are [n, classes] with at least 2 classes, not {list(logits.shape)}")
    logits = logits.detach().cpu()
    finite = logits.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise LimbeckError(
            f"{whose} logits are not finite in {int((~finite).sum())} of {len(logits)} rows (the first is row {row}): "
            "the network's weights or inputs hold NaN or infinity; look at where training diverged"
        )
    return logits


def labelled(target: Tensor, *, rows: int, classes: int) -> Tensor:
    """Which of ``target`` (``[rows]`` class numbers, −100 for none) have a label, as booleans on the CPU."""
    if target.ndim != 1 or len(target) != rows or target.is_floating_point():
        raise LimbeckError(f"the target is {rows} class numbers, one a row, not {target.dtype} {list(target.shape)}")
    target = target.detach().cpu()
    known: Tensor = target != UNLABELLED
    wrong = target[known & ((target < 0) | (target >= classes))]
    if len(wrong):
        raise LimbeckError(
            f"the target has the class {int(wrong[0])}, and there are {classes} classes, counted from 0 "
            f"({UNLABELLED} says that a row has no label)"
        )
    return known


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` in eval mode and without gradients; each module's own mode is put back, also after an error."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def require_pixels(pixels: Tensor, *, eps: float | None = None) -> None:
    """Refuse pixels, and an ε, that are not in units of 0..1: an unnormalised ε is refused.

    >>> require_pixels(torch.tensor([0.0, 1.0]), eps=8 / 255)
    """
    if eps is not None and not 0 < eps <= 1:
        raise LimbeckError(
            f"an unnormalised ε is refused: ε is in pixel units of 0..1, and {eps:g} is not between 0 and 1; give "
            "8/255 (0.0314) for 8 levels of 255"
        )
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.numel() else (0.0, 0.0)
    if not (low >= 0.0 and high <= 1.0):  # so written, NaN fails too
        raise LimbeckError(
            f"the pixels go from {low:.3g} to {high:.3g}, and here they are in 0..1, with the normalisation inside the "
            "network: give pictures as they are, and a network that takes mean and spread off by itself"
        )


def said(network: nn.Module, pixels: Tensor) -> Tensor:
    """The logits of ``network`` for one batch, in eval mode without gradients, float32 on the CPU.

    >>> said(nn.Identity(), torch.eye(2)).argmax(dim=1)
    tensor([0, 1])
    """
    held = next(iter(network.parameters()), None)
    with evaluating(network):
        logits: Tensor = network(pixels if held is None else pixels.to(held.device))
    return logits.float().cpu()
