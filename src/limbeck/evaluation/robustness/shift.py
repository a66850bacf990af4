"""A real shift: the same pictures in two versions (as JPEG and lossless, say), and what a network makes of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.data.split import Part
from limbeck.evaluation.checks import said
from limbeck.evaluation.paired_bootstrap import paired_bootstrap

__all__ = ["shift"]


def shift(network: nn.Module, first: Part, second: Part, *, batch: int = 256) -> dict[str, Any]:
    """How ``network`` does on ``second`` beside ``first``, which show the same samples in the same order.

    Args:
        network: takes pixels in 0..1 and gives logits ``[n, classes]``.
        first: the samples as they should be.
        second: the same ones, shifted.
        batch: samples at once.

    Returns:
        ``first`` and ``second``, accuracies over the labelled samples; ``difference``, second − first in percentage
        points, with the ends ``low`` and ``high`` of its 95 % interval (paired bootstrap over the samples);
        ``flipped``, the share of all samples that get another class; and ``n``, the labelled ones.

    Raises:
        LimbeckError: the parts are not the same samples, or none has a label.

    >>> from limbeck.data.split import Stored
    >>> target = torch.tensor([0, 0, 1, 1])
    >>> first = Part.whole(Stored(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.4, 0.6]])), target)
    >>> second = Part.whole(Stored(torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.3, 0.7]])), target)
    >>> found = shift(nn.Identity(), first, second)
    >>> found["first"], found["second"], found["difference"], found["flipped"]
    (1.0, 0.75, -25.0, 0.25)
    """
    if len(first) != len(second) or not torch.equal(first.target, second.target):
        raise LimbeckError(
            f"a shift compares two versions of the same samples, and these are {len(first)} and {len(second)} with "
            "other labels: give two folders with the same names in the same classes"
        )
    pairs = [
        (said(network, first.read(which)).argmax(dim=1), said(network, second.read(which)).argmax(dim=1))
        for which in torch.split(torch.arange(len(first)), batch)
    ]
    known = first.target >= 0
    if not bool(known.any()):
        raise LimbeckError("there is nothing to compare a shift on: no sample has a label")
    before, after = (torch.cat(side) for side in zip(*pairs, strict=True))
    right = (after == first.target)[known], (before == first.target)[known]
    difference, low, high = paired_bootstrap(*right)
    return {
        "first": float(right[1].double().mean()), "second": float(right[0].double().mean()), "difference": difference,
        "low": low, "high": high, "flipped": float((before != after).double().mean()), "n": int(known.sum()),
    }  # fmt: skip
