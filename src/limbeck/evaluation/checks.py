"""Logits and targets by row, as every figure takes them: checked once, and the rows that have a label."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.data.split import UNLABELED

__all__ = ["check_logits", "evaluation_mode", "labeled_mask", "predict_logits", "require_pixels"]


def check_logits(logits: Tensor, *, owner: str) -> Tensor:
    """``logits`` (``[n, classes]``, floats) on the CPU without a graph, or one sentence on what is wrong with them."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise LimbeckError(f"{owner} logits are [n, classes] with at least 2 classes, not {list(logits.shape)}")
    logits = logits.detach().cpu()
    finite = logits.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise LimbeckError(
            f"{owner} logits are not finite in {int((~finite).sum())} of {len(logits)} rows (the first is row {row}): "
            "the network's weights or inputs hold NaN or infinity; look at where training diverged"
        )
    return logits


def labeled_mask(target: Tensor, *, num_rows: int, num_classes: int) -> Tensor:
    """Which of ``target`` (``[rows]`` class numbers, −100 for none) have a label, as booleans on the CPU."""
    if target.ndim != 1 or len(target) != num_rows or target.is_floating_point():
        raise LimbeckError(
            f"the target is {num_rows} class numbers, one a row, not {target.dtype} {list(target.shape)}"
        )
    target = target.detach().cpu()
    is_labeled: Tensor = target != UNLABELED
    invalid = target[is_labeled & ((target < 0) | (target >= num_classes))]
    if len(invalid):
        raise LimbeckError(
            f"the target has the class {int(invalid[0])}, and there are {num_classes} classes, counted from 0 "
            f"({UNLABELED} says that a row has no label)"
        )
    return is_labeled


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
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


def predict_logits(network: nn.Module, pixels: Tensor) -> Tensor:
    """The logits of ``network`` for one batch, in eval mode without gradients, float32 on the CPU.

    >>> predict_logits(nn.Identity(), torch.eye(2)).argmax(dim=1)
    tensor([0, 1])
    """
    first_parameter = next(iter(network.parameters()), None)
    with evaluation_mode(network):
        logits: Tensor = network(pixels if first_parameter is None else pixels.to(first_parameter.device))
    return logits.float().cpu()
