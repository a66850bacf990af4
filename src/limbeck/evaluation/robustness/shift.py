"""A real shift: the same pictures in two versions (as JPEG and lossless, say), and what a network makes of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.data.split import Split
from limbeck.evaluation.checks import predict_logits
from limbeck.evaluation.paired_bootstrap import paired_bootstrap

__all__ = ["shift_accuracy"]


def shift_accuracy(network: nn.Module, reference: Split, shifted: Split, *, batch_size: int = 256) -> dict[str, Any]:
    """How ``network`` does on ``shifted`` beside ``reference``, which show the same samples in the same order.

    Args:
        network: takes pixels in 0..1 and gives logits ``[n, classes]``.
        reference: the samples as they should be.
        shifted: the same ones, shifted.
        batch_size: samples at once.

    Returns:
        ``reference_accuracy`` and ``shifted_accuracy``, accuracies over the labelled samples; ``difference``, shifted − reference in percentage
        points, with the ends ``low`` and ``high`` of its 95 % interval (paired bootstrap over the samples);
        ``flip_rate``, the share of all samples that get another class; and ``num_samples``, the labelled ones.

    Raises:
        LimbeckError: the parts are not the same samples, or none has a label.

    >>> from limbeck.data.split import InMemory
    >>> target = torch.tensor([0, 0, 1, 1])
    >>> first = Split.from_images(InMemory(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.4, 0.6]])), target)
    >>> second = Split.from_images(InMemory(torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.3, 0.7]])), target)
    >>> found = shift_accuracy(nn.Identity(), first, second)
    >>> found["reference_accuracy"], found["shifted_accuracy"], found["difference"], found["flip_rate"]
    (1.0, 0.75, -25.0, 0.25)
    """
    if len(reference) != len(shifted) or not torch.equal(reference.target, shifted.target):
        raise LimbeckError(
            f"a shift compares two versions of the same samples, and these are {len(reference)} and {len(shifted)} with "
            "other labels: give two folders with the same names in the same classes"
        )
    predicted = [
        (
            predict_logits(network, reference.read(indices)).argmax(dim=1),
            predict_logits(network, shifted.read(indices)).argmax(dim=1),
        )
        for indices in torch.split(torch.arange(len(reference)), batch_size)
    ]
    is_labeled = reference.target >= 0
    if not bool(is_labeled.any()):
        raise LimbeckError("there is nothing to compare a shift on: no sample has a label")
    reference_class, shifted_class = (torch.cat(side) for side in zip(*predicted, strict=True))
    correct = (shifted_class == reference.target)[is_labeled], (reference_class == reference.target)[is_labeled]
    difference, low, high = paired_bootstrap(*correct)
    return {
        "reference_accuracy": float(correct[1].double().mean()), "shifted_accuracy": float(correct[0].double().mean()),
        "difference": difference, "low": low, "high": high,
        "flip_rate": float((reference_class != shifted_class).double().mean()), "num_samples": int(is_labeled.sum()),
    }  # fmt: skip
