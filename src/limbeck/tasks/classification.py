"""Classification: a row is an image (or a vector, or a clip), and each has one class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.losses.cross_entropy import IGNORE_INDEX
from limbeck.losses.temperature import CLASSIFICATION, Range

__all__ = ["Classification"]

_INPUT_KEYS = ("input", "x", "image", "images", "pixel_values")
_TARGET_KEYS = ("target", "y", "label", "labels")


@final
@dataclass(frozen=True, slots=True)
class Classification:
    """One class for each sample.

    Arguments:
        classes: how many there are.

    A batch is ``(input, target)``, or a mapping that has the input under ``input``, ``x``, ``image(s)`` or
    ``pixel_values`` and the target under ``target``, ``y`` or ``label(s)``. The network is called with the input and
    gives logits ``[batch, classes]``, as a tensor, the first of a tuple, or in ``.logits`` or ``["logits"]``.
    Targets are class numbers, −100 where there is no label, or probabilities ``[batch, classes]``, all zero where there
    is none.
    """

    classes: int
    temperatures: ClassVar[Range] = CLASSIFICATION

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise LimbeckError(f"classification takes at least 2 classes, not {self.classes}")

    def outputs(self, network: nn.Module, batch: Any) -> Outputs:
        """What ``network`` says about ``batch``, one row a sample."""
        logits = _extract_logits(network(_get_field(batch, 0, _INPUT_KEYS, field="input")))
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise LimbeckError(
                f"{type(network).__name__} gave logits of shape {list(logits.shape)}, and this task takes "
                f"[batch, {self.classes}]: give the network a head of {self.classes} classes, or set the task's classes"
            )
        return Outputs(logits=logits)

    def target(self, batch: Any) -> Tensor | None:
        """The class numbers or probabilities, or ``None`` where the batch carries none."""
        target: Tensor | None
        if isinstance(batch, Mapping):
            target = _get_first_present(batch, _TARGET_KEYS)
        elif isinstance(batch, Tensor) or (isinstance(batch, tuple | list) and len(batch) < 2):
            target = None
        else:
            target = _get_field(batch, 1, _TARGET_KEYS, field="target")
        if target is None:
            return None
        # Elsewhere than on a CPU, looking would make the device wait. On so few numbers, a set is quicker than tensors.
        if target.is_cpu and target.ndim == 1 and not target.is_floating_point():
            labels, allowed = target.tolist(), _valid_labels(self.classes)
            if not allowed.issuperset(labels):
                wrong = next(label for label in labels if label not in allowed)
                raise LimbeckError(
                    f"the data has a label {wrong}, and this task has {self.classes} classes, "
                    "counted from 0 (-100 says that there is no label)"
                )
        return target


@lru_cache(maxsize=8)
def _valid_labels(classes: int) -> frozenset[int]:
    return frozenset((*range(classes), IGNORE_INDEX))


def _get_first_present(batch: Mapping[Any, Any], keys: tuple[str, ...]) -> Any:
    for key in keys:
        if key in batch:
            return batch[key]
    return None


def _get_field(batch: Any, position: int, keys: tuple[str, ...], *, field: str) -> Any:
    if isinstance(batch, Mapping):
        for key in keys:
            if key in batch:
                return batch[key]
        raise LimbeckError(f"the batch has {sorted(map(str, batch))}, and its {field} is looked for under {list(keys)}")
    if isinstance(batch, tuple | list) and len(batch) > position:
        return batch[position]
    if isinstance(batch, Tensor) and position == 0:
        return batch
    raise LimbeckError(f"a batch is (input, target) or a mapping, and no {field} is in this {type(batch).__name__}")


def _extract_logits(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        return logits
    if isinstance(output, Mapping) and isinstance(logits := output.get("logits"), Tensor):
        return logits
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise LimbeckError(f"the network gave a {type(output).__name__} without logits")
