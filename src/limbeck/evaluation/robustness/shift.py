"""Accuracy under a distribution shift: the same images in two versions, such as JPEG and lossless."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.data.split import Split
from limbeck.evaluation.checks import predict_logits
from limbeck.evaluation.statistics import paired_bootstrap

__all__ = ["shift_accuracy"]


def shift_accuracy(network: nn.Module, reference: Split, shifted: Split, *, batch_size: int = 256) -> dict[str, Any]:
    """Accuracy of ``network`` on ``shifted`` and ``reference``, which hold the same samples in the same order.

    Args:
        network: maps pixels in 0..1 to logits ``[n, classes]``.
        reference: the samples without shift.
        shifted: the same samples with shift.
        batch_size: samples per batch.

    Returns:
        ``reference_accuracy`` and ``shifted_accuracy`` over the labeled samples; ``difference``, shifted − reference in
        percentage points, with ``low`` and ``high`` of its 95 % interval (paired bootstrap over samples);
        ``flip_rate``, the fraction of all samples with another predicted class; and ``num_samples``, the number of
        labeled ones.

    Raises:
        LimbeckError: different samples, or none with a label.

    >>> from limbeck.data.split import InMemory
    >>> target = torch.tensor([0, 0, 1, 1])
    >>> first = Split.from_images(InMemory(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.4, 0.6]])), target)
    >>> second = Split.from_images(InMemory(torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.3, 0.7]])), target)
    >>> result = shift_accuracy(nn.Identity(), first, second)
    >>> result["reference_accuracy"], result["shifted_accuracy"], result["difference"], result["flip_rate"]
    (1.0, 0.75, -25.0, 0.25)
    """
    if len(reference) != len(shifted) or not torch.equal(reference.target, shifted.target):
        raise LimbeckError(
            f"splits must hold the same samples, got {len(reference)} and {len(shifted)} with different labels; give "
            "two folders with the same names in the same classes"
        )
    is_labeled = reference.target >= 0
    if not bool(is_labeled.any()):
        raise LimbeckError("the splits must have at least one labeled sample, and no sample has a label")
    reference_class, shifted_class = (_predict_classes(network, split, batch_size) for split in (reference, shifted))
    reference_correct, shifted_correct = (
        (predicted == reference.target)[is_labeled] for predicted in (reference_class, shifted_class)
    )
    difference, low, high = paired_bootstrap(shifted_correct, reference_correct)
    return {
        "reference_accuracy": float(reference_correct.double().mean()),
        "shifted_accuracy": float(shifted_correct.double().mean()),
        "difference": difference,
        "low": low,
        "high": high,
        "flip_rate": float((reference_class != shifted_class).double().mean()),
        "num_samples": int(is_labeled.sum()),
    }


def _predict_classes(network: nn.Module, split: Split, batch_size: int) -> Tensor:
    batches = torch.split(torch.arange(len(split)), batch_size)
    return torch.cat([predict_logits(network, split.read(indices)).argmax(dim=1) for indices in batches])
