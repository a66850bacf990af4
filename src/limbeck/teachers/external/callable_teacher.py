"""Any Python callable as a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.data import Normalization
from limbeck.teachers.external.external_teacher import Foreign, Returns, Sees

__all__ = ["answers"]


def answers(
    of: Callable[..., Any], *, returns: Returns = "logits", takes: Literal["torch", "numpy"] = "torch",
    sees: Sees = "normalised", normalization: Normalization | None = None, version: str = "",
    classes: int | None = None, partial: bool = False,
) -> Foreign:  # fmt: skip
    """A teacher that answers as ``of`` does.

    Args:
        of: takes a batch of inputs ``[n, ...]`` and gives ``[n, classes]``.
        returns: ``logits`` or ``probabilities``.
        takes: whether it is given a ``torch`` tensor or a ``numpy`` array, both float32.
        sees: ``normalised`` inputs or ``pixels`` in 0..1.
        normalization: of the data; needed in Python for one that sees pixels.
        version: any text; change it when ``of`` answers otherwise than before, as no cache can see into a function.
        classes: how many there are.
        partial: whether a row of NaN says that it has no answer for a sample, which then goes without it.

    >>> teacher = answers(lambda x: [[0.25, 0.75]] * len(x), returns="probabilities")
    >>> import torch
    >>> teacher(torch.zeros(1, 3)).exp()
    tensor([[0.2500, 0.7500]])
    """
    if isinstance(of, nn.Module):
        raise LimbeckError(f"{type(of).__name__} is a network of torch: give it as the teacher, as it is")
    if not callable(of):
        raise LimbeckError(f"a teacher's answers come from something that can be called, not from {of!r}")
    if takes not in ("torch", "numpy"):
        raise LimbeckError(f"takes is torch or numpy, not {takes!r}")
    name = getattr(of, "__qualname__", type(of).__qualname__)
    home = getattr(of, "__module__", type(of).__module__)
    return Foreign(
        of if takes == "torch" else _Numpy(of), called=f"the callable {name}", identity=f"{home}:{name} {version}",
        returns=returns, sees=sees, normalization=normalization, classes=classes, partial=partial,
    )  # fmt: skip


class _Numpy:
    """Asks with a numpy array."""

    def __init__(self, of: Callable[..., Any]) -> None:
        self.of = of

    def __call__(self, input: Tensor) -> Any:
        return self.of(input.numpy())
