"""A network that teaches and does not learn: no gradient, eval mode, whatever happens around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.features import Taps
from limbeck.teachers.adapter import Adapter
from limbeck.teachers.backends import Engine
from limbeck.teachers.backends.call_recorder import answered
from limbeck.teachers.external.external_teacher import Foreign, unanswered
from limbeck.teachers.model_fingerprint import of_network

__all__ = ["Frozen"]

_training = attrgetter("training")
_INSIDE = "module"


@final
class Frozen:
    """A teacher of flesh: a module in eval mode that gets no gradient.

    Arguments:
        network: any module; it is put in eval mode and its parameters stop asking for gradients.
        taps: places to read, by the name to give them.
        engine: what computes the answers: ``eager``, ``folded``, ``compile``, ``onnxruntime``, ``openvino``, or
            ``auto``, the fastest that answers like eager; an :class:`~limbeck.teachers.Engine` to share a choice.

    It is deliberately no ``nn.Module``: so the student's ``train()``, ``parameters()`` and ``state_dict()`` never
    reach it. Its device and precision follow through :meth:`move`. Which engine runs, and how much faster it is, stands
    in ``frozen.engine.report`` after the first batch.
    """

    def __init__(
        self, network: nn.Module, taps: Mapping[str, str] | None = None, *, engine: Engine | str = "eager"
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        # Behind an adapter, a place is still named as in the network itself.
        within = f"{_INSIDE}." if isinstance(network, Adapter) else ""
        self.places = {name: within + place for name, place in (taps or {}).items()}
        self.engine = Engine(engine) if isinstance(engine, str) else engine
        self._refuse()
        self.taps = Taps(network, self.places)
        self._modules = list(network.modules())

    def answer(self, batch: Any, task: Task) -> Outputs:
        """What the network says about ``batch``, as the task reads it, with the tapped features."""
        if any(map(_training, self._modules)):
            self.network.eval()
        with torch.no_grad():
            if self.engine.name == "eager":
                said = answered(self.network, self.taps, batch, task)
            else:
                said = self.engine.answer(self.network, self.places, batch, task)
        return _absent(said) if getattr(self.network, "partial", False) else said

    def move(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply to the weights what ``nn.Module.to`` applies to its own."""
        before = self._kinds()
        self.network._apply(change)  # type: ignore[no-untyped-call]
        if self._kinds() != before:
            self.engine.forget()

    def tapped(self, places: Mapping[str, str]) -> Frozen:
        """The same network with features read at ``places``."""
        return Frozen(self.network, places, engine=self.engine)

    def identity(self) -> str:
        """What it is: weights, layers, source text, and the places read."""
        return of_network(self.network, self.places)

    def __repr__(self) -> str:
        engine = "" if self.engine.name == "eager" else f", engine={self.engine.name!r}"
        return f"Frozen({type(self.network).__name__}{engine})"

    def _refuse(self) -> None:
        self.engine.require_taps(self.places)
        if isinstance(self.network, Foreign) and self.places:
            raise LimbeckError(
                f"{self.network.called} gives answers only, so nothing in it can be tapped: {self.places}"
            )
        if isinstance(self.network, Foreign) and self.engine.name != "eager":
            raise LimbeckError(f"{self.network.called} answers by itself: leave engine {self.engine.name!r} away")

    def _kinds(self) -> set[tuple[torch.device, torch.dtype]]:
        return {(tensor.device, tensor.dtype) for tensor in (*self.network.parameters(), *self.network.buffers())}


def _absent(said: Outputs) -> Outputs:
    """``said`` with the samples that were not answered, whose rows hold zeros from then on: a cache keeps numbers."""
    rows = said.rows()
    gone = unanswered(rows)
    return replace(said, logits=rows.masked_fill(gone[:, None], 0.0), present=~gone)
