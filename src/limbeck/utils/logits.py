"""Logits in the output of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["find_logits"]


def find_logits(output: Any) -> Tensor | None:
    """The tensor ``output`` itself, ``output.logits``, ``output["logits"]``, ``output["out"]`` (torchvision's
    segmentation networks) or the first of a tuple or list.

    >>> find_logits({"scores": 1}) is None
    True
    """
    candidates = [output, getattr(output, "logits", None)]
    if isinstance(output, Mapping):
        candidates += [output.get("logits"), output.get("out")]
    elif isinstance(output, tuple | list):
        candidates += output[:1]
    return next((logits for logits in candidates if isinstance(logits, Tensor)), None)
