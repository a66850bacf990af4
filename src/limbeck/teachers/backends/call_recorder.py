"""How a task calls a network, heard from one real batch: so an engine takes the place of any network under any task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.features import Taps

__all__ = ["Call", "Unfit", "answered", "difference", "heard"]


@final
class Unfit(LimbeckError):
    """Why an engine cannot take the place of a network; the words complete "not folded: …"."""


@final
@dataclass(frozen=True, slots=True)
class Call:
    """One call of the network: what it was given, and what it gave."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    said: Any


@final
class _Ear(nn.Module):
    """Passes calls on to a network and writes them down."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, list[Call]()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network says."""
        said = self.network(*args, **kwargs)
        self.calls.append(Call(args, kwargs, said))
        return said


def heard(network: nn.Module, taps: Taps, batch: Any, task: Task) -> tuple[Outputs, list[Call]]:
    """The answer of ``network`` to ``batch``, and how the task called it; none where it did so by another method."""
    ear = _Ear(network)
    try:
        return answered(ear, taps, batch, task), ear.calls
    except AttributeError:  # the task calls a method of the network's own
        return answered(network, taps, batch, task), []


def answered(network: nn.Module, taps: Taps, batch: Any, task: Task) -> Outputs:
    """What ``network`` says about ``batch``, as the task reads it, with the tapped features."""
    if not len(taps):
        return task.outputs(network, batch).detach()
    with taps.listening() as features:
        said = task.outputs(network, batch)
    return replace(said, taps=features).detach()


def difference(said: Outputs, expected: Outputs) -> float:
    """The largest difference of a number, as a share of the largest number that was expected beside it.

    >>> difference(Outputs(logits=torch.tensor([[3.0, 1.0]])), Outputs(logits=torch.tensor([[4.0, 1.0]])))
    0.25
    """
    ours, theirs = _numbers(said), _numbers(expected)
    if {n: t.shape for n, t in ours.items()} != {n: t.shape for n, t in theirs.items()}:
        return float("inf")
    return max((_apart(ours[name].float(), theirs[name].float()) for name in theirs), default=0.0)


def _apart(one: Tensor, expected: Tensor) -> float:
    if not expected.numel():
        return 0.0
    # Where both are infinite (a class that is impossible), they agree, and the difference would be NaN.
    same = one == expected
    gap = torch.where(same, 0.0, (one - expected).abs())
    scale = float(expected[expected.isfinite()].abs().max()) if bool(expected.isfinite().any()) else 0.0
    found = float(gap.max()) / max(scale, 1e-30)
    return found if found == found else float("inf")


def _numbers(outputs: Outputs) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for item in fields(outputs):
        value = getattr(outputs, item.name)
        if isinstance(value, Tensor):
            found[item.name] = value
        elif isinstance(value, Mapping):
            found |= {f"{item.name}.{name}": tensor for name, tensor in value.items()}
    return found
