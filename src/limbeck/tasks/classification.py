"""Classification: a row is a sample (an image, a vector, an audio clip) with one class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.losses._ops import IGNORE_INDEX
from limbeck.losses.temperature import CLASSIFICATION, Range
from limbeck.utils.logits import find_logits

__all__ = ["Classification"]

_INPUT_KEYS = ("input", "x", "image", "images", "pixel_values")
_TARGET_KEYS = ("target", "y", "label", "labels")


@final
@dataclass(frozen=True, slots=True)
class Classification:
    """One class for each sample.

    A batch is ``(input, target)``, or a mapping that has the input under ``input``, ``x``, ``image(s)`` or
    ``pixel_values`` and the target under ``target``, ``y`` or ``label(s)``. The network is called with the input and
    returns logits ``[batch, classes]``, as a tensor, the first of a tuple, or in ``.logits`` or ``["logits"]``.
    Targets are class indices, −100 for no label, or probabilities ``[batch, classes]``, all zero for no label.

    Args:
        classes: number of classes.
    """

    classes: int
    temperatures: ClassVar[Range] = CLASSIFICATION

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise LimbeckError(f"classes must be at least 2, got {self.classes}")

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """Outputs of ``network`` for ``batch``, one row per sample."""
        output = network(_get_input(batch))
        logits = find_logits(output)
        if logits is None:
            raise LimbeckError(f"{type(network).__name__} must return logits, got a {type(output).__name__}")
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise LimbeckError(
                f"logits of {type(network).__name__} must be [batch, {self.classes}], got {list(logits.shape)}; give "
                f"the network a head of {self.classes} classes, or set the task's classes"
            )
        return Outputs(logits=logits)

    def target(self, batch: Any) -> Tensor | None:
        """Class indices or probabilities, or ``None`` for a batch without a target."""
        target: Tensor | None = None
        if isinstance(batch, Mapping):
            target = next((batch[key] for key in _TARGET_KEYS if key in batch), None)
        elif isinstance(batch, tuple | list) and len(batch) > 1:
            target = batch[1]
        # Only on the CPU, since reading values synchronizes a device. For so few numbers a set is faster than tensors.
        if target is not None and target.is_cpu and target.ndim == 1 and not target.is_floating_point():
            labels, allowed = target.tolist(), _valid_labels(self.classes)
            if not allowed.issuperset(labels):
                wrong = next(label for label in labels if label not in allowed)
                raise LimbeckError(
                    f"labels must be in 0..{self.classes - 1} for {self.classes} classes, or {IGNORE_INDEX} for no "
                    f"label, got {wrong}"
                )
        return target


@lru_cache(maxsize=8)
def _valid_labels(classes: int) -> frozenset[int]:
    return frozenset((*range(classes), IGNORE_INDEX))


def _get_input(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        for key in _INPUT_KEYS:
            if key in batch:
                return batch[key]
        raise LimbeckError(
            f"a batch must have its input under one of {list(_INPUT_KEYS)}, got {sorted(map(str, batch))}"
        )
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, tuple | list) and batch:
        return batch[0]
    raise LimbeckError(f"a batch must be (input, target) or a mapping, got no input in this {type(batch).__name__}")
