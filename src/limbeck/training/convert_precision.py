"""Training in a precision that converts every weight (``bf16-true``), and what does not work in it.

Under ``16-true``, ``bf16-true`` and ``64-true`` student, teachers, losses and batches have that type during the
training, and their own type again after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from limbeck.core.errors import LimbeckError
from limbeck.distiller.distiller import Distiller
from limbeck.teachers.cache import CachedTeacher
from limbeck.teachers.frozen import FrozenTeacher
from limbeck.teachers.self_teachers import EMATeacher
from limbeck.training.config import TrainingConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["preserve_dtypes", "require_precision", "to_precision"]

_CONVERTED: Final = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}


def to_precision(fabric: Fabric, batch: Any) -> Any:
    """``batch`` on the device of ``fabric``, in the type of its precision."""
    return fabric.strategy.precision.convert_input(fabric.to_device(batch))


@contextmanager
def preserve_dtypes(distiller: Distiller, fabric: Fabric) -> Iterator[None]:
    """Give student, losses and teachers their types back after the block, where the precision converts them.

    A tensor that was not trained, such as a weight of a teacher, has its exact values again.
    """
    if fabric.strategy.precision.precision not in _CONVERTED:
        yield
        return
    originals = {name: tensor.detach() for name, tensor in _named_tensors(distiller)}
    teacher_originals = list[Tensor]()

    def record(tensor: Tensor) -> Tensor:
        teacher_originals.append(tensor.detach())
        return tensor

    for teacher in distiller.teachers.values():
        teacher.to(record)
    try:
        yield
    finally:
        for name, tensor in _named_tensors(distiller):
            tensor.data = _restore_dtype(tensor.detach(), originals.get(name))
        remaining = iter(teacher_originals)
        for teacher in distiller.teachers.values():
            teacher.to(lambda tensor: _restore_dtype(tensor.detach(), next(remaining)))


def _named_tensors(distiller: Distiller) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of student and losses."""
    for part, module in (("student", distiller.student), ("objective", distiller.objective)):
        for name, tensor in chain(module.named_parameters(), module.named_buffers()):
            yield f"{part}.{name}", tensor


def _restore_dtype(tensor: Tensor, original: Tensor | None) -> Tensor:
    """``tensor`` in the type of ``original``, or ``original`` itself where it was only converted."""
    if not tensor.is_floating_point():
        return tensor
    if original is None:  # a projection that the training has built
        return tensor.to(torch.get_default_dtype())
    if original.shape == tensor.shape and torch.equal(original.to(tensor), tensor):
        return original.to(tensor.device)
    return tensor.to(original.dtype)


def require_precision(
    precision: str, distiller: Distiller, training: TrainingConfig, optimizer: Optimizer, *, has_cache: bool = False
) -> None:
    """Refuse, before training, what does not work in ``precision``; ``has_cache``: teachers will be cached."""
    dtype = _CONVERTED.get(precision)
    if dtype is None:
        return
    for name, teacher in distiller.teachers.items():
        if has_cache or isinstance(teacher, CachedTeacher):
            raise LimbeckError(
                f"precision {precision} converts the inputs of the teacher {name!r}, and its cache holds outputs for "
                "float32 inputs: use bf16-mixed or 32-true, or remove the cache"
            )
        if isinstance(teacher, FrozenTeacher) and teacher.backend.name in ("onnxruntime", "openvino"):
            raise LimbeckError(
                f"precision {precision} converts the inputs of the teacher {name!r}, and its backend "
                f"{teacher.backend.name} needs float32: use bf16-mixed or 32-true, or the backend eager"
            )
    averages = [name for name, teacher in distiller.teachers.items() if isinstance(teacher, EMATeacher)]
    averages += ["training.ema_decay"] if training.ema_decay is not None else []
    if averages and dtype.itemsize == 2:
        raise LimbeckError(
            f"{averages[0]} averages weights, and precision {precision} rounds its small updates away: use bf16-mixed"
        )
    for eps in (group.get("eps") for group in optimizer.param_groups):
        if isinstance(eps, float) and eps > 0 and not torch.tensor(eps, dtype=dtype):
            raise LimbeckError(
                f"precision {precision} rounds eps={eps:g} of {type(optimizer).__name__} to 0, and its update divides "
                "by eps where a gradient is small: use bf16-true or 16-mixed, or SGD"
            )
