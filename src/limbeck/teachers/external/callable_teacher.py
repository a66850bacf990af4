"""Any Python callable as a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.data import Normalization
from limbeck.teachers.external.external_teacher import ExternalTeacher, InputType, OutputType

__all__ = ["from_callable"]


def from_callable(
    fn: Callable[..., Any], *, output_type: OutputType = "logits", array_type: Literal["torch", "numpy"] = "torch",
    input_type: InputType = "normalized", normalization: Normalization | None = None, version: str = "",
    classes: int | None = None, allow_missing: bool = False,
) -> ExternalTeacher:  # fmt: skip
    """A teacher that answers as ``fn`` does.

    Args:
        fn: takes a batch of inputs ``[n, ...]`` and gives ``[n, classes]``.
        output_type: ``logits`` or ``probabilities``.
        array_type: whether it is given a ``torch`` tensor or a ``numpy`` array, both float32.
        input_type: ``normalized`` inputs or ``pixels`` in 0..1.
        normalization: of the data; needed in Python for one that sees pixels.
        version: any text; change it when ``fn`` answers otherwise than before, as no cache can see into a function.
        classes: how many there are.
        allow_missing: whether a row of NaN says that it has no answer for a sample, which then goes without it.

    >>> teacher = from_callable(lambda x: [[0.25, 0.75]] * len(x), output_type="probabilities")
    >>> import torch
    >>> teacher(torch.zeros(1, 3)).exp()
    tensor([[0.2500, 0.7500]])
    """
    if isinstance(fn, nn.Module):
        raise LimbeckError(f"{type(fn).__name__} is a network of torch: give it as the teacher, as it is")
    if not callable(fn):
        raise LimbeckError(f"a teacher's answers come from something that can be called, not from {fn!r}")
    if array_type not in ("torch", "numpy"):
        raise LimbeckError(f"array_type is torch or numpy, not {array_type!r}")
    name = getattr(fn, "__qualname__", type(fn).__qualname__)
    module_name = getattr(fn, "__module__", type(fn).__module__)
    return ExternalTeacher(
        fn if array_type == "torch" else _NumpyCallable(fn), name=f"the callable {name}", fingerprint=f"{module_name}:{name} {version}",
        output_type=output_type, input_type=input_type, normalization=normalization, classes=classes, allow_missing=allow_missing,
    )  # fmt: skip


class _NumpyCallable:
    """Asks with a numpy array."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __call__(self, input: Tensor) -> Any:
        return self.fn(input.numpy())
