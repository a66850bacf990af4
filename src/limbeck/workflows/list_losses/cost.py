"""What a loss learns and keeps, found by making one for features of a usual size."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress

__all__ = ["EXAMPLE_SIZES", "LossCost", "measure_loss_cost"]

_BATCH_SIZE: Final = 8
_NUM_CLASSES: Final = 10
_FEATURE_SHAPES: Final = (((16, 8, 8), (32, 8, 8)), ((32, 4, 4), (64, 4, 4)))
EXAMPLE_SIZES: Final = "16 → 32 channels of 8×8, and of a second layer 32 → 64 of 4×4; 10 classes"
"""The features of student and teacher that costs are measured for."""


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LossCost:
    """What a loss needs besides its arithmetic.

    Attributes:
        num_parameters: parameters of its own; ``None`` where it has some and how many was not found.
        buffer_bytes: bytes that it keeps from batch to batch; ``None`` likewise.
    """

    num_parameters: int | None
    buffer_bytes: int | None


def measure_loss_cost(loss_class: type[Any], layer_args: Sequence[str]) -> LossCost:
    """Make one, let it be shaped by one context, and count.

    A loss without a state learns and keeps nothing. One that cannot be made like this, as it needs settings or features
    of a special kind, has the cost ``None``.

    >>> from limbeck.losses import FitNetLoss, KDLoss
    >>> measure_loss_cost(KDLoss, ()), measure_loss_cost(FitNetLoss, ("layer",))
    (LossCost(num_parameters=0, buffer_bytes=0), LossCost(num_parameters=544, buffer_bytes=0))
    """
    if not issubclass(loss_class, nn.Module):
        return LossCost(num_parameters=0, buffer_bytes=0)
    required_args = [name for name in layer_args if not name.startswith("[")]
    for layer_names in (required_args, [name.strip("[]") for name in layer_args]):
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                loss: Any = loss_class(**_constructor_args(loss_class, layer_names))
                if hasattr(loss, "prepare"):
                    loss.prepare(_make_example_context())
        except Exception:  # noqa: S112  # any error about settings and features that are not its own
            continue
        return LossCost(
            num_parameters=sum(parameter.numel() for parameter in loss.parameters()),
            buffer_bytes=_count_buffer_bytes(loss),
        )
    return LossCost(num_parameters=None, buffer_bytes=None)


def _count_buffer_bytes(loss: nn.Module) -> int:
    """Bytes of its buffers, but for the running statistics of BatchNorm, which belong to what it learns."""
    batchnorm_types = nn.modules.batchnorm._NormBase
    return sum(
        tensor.nbytes
        for module in loss.modules()
        if not isinstance(module, batchnorm_types)
        for tensor in module.buffers(recurse=False)
    )


def _constructor_args(loss_class: type[Any], layer_args: Sequence[str]) -> dict[str, Any]:
    """What it has to be given: names of layers, and what a recipe would fill in."""
    defaults = {"classes": _NUM_CLASSES, "seed": 0}
    settings: dict[str, Any] = {}
    layer_names = iter(("first", "second", "first", "second"))
    for name, parameter in inspect.signature(loss_class).parameters.items():
        if name in layer_args:
            is_sequence = any(type_name in str(parameter.annotation) for type_name in ("Sequence", "tuple", "list"))
            settings[name] = ("first", "second") if is_sequence else next(layer_names)
        elif name in defaults:
            settings[name] = defaults[name]
    return settings


def _make_example_context() -> LossContext:
    generator = torch.Generator().manual_seed(0)

    def make_outputs(index: int) -> Outputs:
        feature_maps = [torch.randn(_BATCH_SIZE, *shapes[index], generator=generator) for shapes in _FEATURE_SHAPES]
        features: dict[str, Tensor] = dict(zip(("first", "second"), feature_maps, strict=True))
        return Outputs(logits=torch.randn(_BATCH_SIZE, _NUM_CLASSES, generator=generator), features=features)

    student, teacher = make_outputs(0), make_outputs(1)
    values: dict[str, Any] = {
        "student": student, "teachers": {"teacher": teacher}, "teacher": teacher,
        "target": torch.arange(_BATCH_SIZE) % _NUM_CLASSES, "progress": Progress(step=1, steps=4),
        "sample_ids": torch.arange(_BATCH_SIZE),
    }  # fmt: skip
    return LossContext(
        **{field.name: values[field.name] for field in dataclasses.fields(LossContext) if field.name in values}
    )
