"""A network that teaches and does not learn: no gradient, eval mode, whatever happens around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.taps import Taps
from limbeck.teachers.identity import of_network

__all__ = ["Frozen"]


@final
class Frozen:
    """A teacher of flesh: a module in eval mode that gets no gradient.

    Arguments:
        network: any module; it is put in eval mode and its parameters stop asking for gradients.
        taps: places to read, by the name to give them.

    It is deliberately no ``nn.Module``: so the student's ``train()``, ``parameters()`` and ``state_dict()`` never
    reach it. Its device and precision follow through :meth:`move`.
    """

    def __init__(self, network: nn.Module, taps: Mapping[str, str] | None = None) -> None:
        self.network = network.eval().requires_grad_(False)
        self._places = dict(taps or {})
        self.taps = Taps(network, self._places)
        self._modules = list(network.modules())

    @torch.no_grad()
    def answer(self, batch: Any, task: Task) -> Outputs:
        """What the network says about ``batch``, as the task reads it, with the tapped features."""
        if any(module.training for module in self._modules):
            self.network.eval()
        if not len(self.taps):
            return task.outputs(self.network, batch).detach()
        with self.taps.listening() as heard:
            said = task.outputs(self.network, batch)
        return replace(said, taps=heard).detach()

    def move(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply to the weights what ``nn.Module.to`` applies to its own."""
        self.network._apply(change)  # type: ignore[no-untyped-call]

    def tapped(self, places: Mapping[str, str]) -> Frozen:
        """The same network with features read at ``places``."""
        return Frozen(self.network, places)

    def identity(self) -> str:
        """What it is: weights, layers, source text, and the places read."""
        return of_network(self.network, self._places)

    def __repr__(self) -> str:
        return f"Frozen({type(self.network).__name__})"
