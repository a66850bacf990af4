"""Early exits: the student up to a stage, with the classifier that was learned on it (``terms.DeepToShallow``).

Zhang et al., ICCV 2019, https://arxiv.org/abs/1905.08094. An exit is a network like any other: it can be measured and
exported, and computes nothing behind its stage.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.distiller.distiller import Distiller
from limbeck.features import parse
from limbeck.losses import DeepToShallow

__all__ = ["EarlyExit", "early_exits"]


def early_exits(distiller: Distiller) -> dict[str, nn.Module]:
    """Every early exit of a distiller, by the name of its tap, from shallow to deep; none where no term has heads.

    They share their weights with the student and the heads. ``limbeck.export.to_onnx`` writes each to a file of its
    own, with the parity check.
    """
    return {
        name: EarlyExit(distiller.student, distiller.student_taps[name], term.head(name)).eval()
        for term in distiller.objective.terms.values()
        if isinstance(term, DeepToShallow)
        for name in term.at
    }


@final
class EarlyExit(nn.Module):
    """A network up to one of its places, and a head on what stands there; gives logits ``[batch, classes]``.

    Arguments:
        network: the whole network; the modules behind the place do not run.
        place: as taps are written: ``layer2``, or ``layer2:input``.
        head: from the features to logits, or to a tuple that begins with them.
    """

    def __init__(self, network: nn.Module, place: str, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head, self.place = network, head, parse(place)
        if self.place.run is not None:
            raise LimbeckError(f"an exit at {place!r} would have to count runs: tap a module that runs once")

    def forward(self, *inputs: Any) -> Tensor:
        """The logits at the exit."""
        features = self._features(*inputs)
        said = self.head(features)
        logits: Tensor = said[0] if isinstance(said, tuple) else said
        return logits

    def _features(self, *inputs: Any) -> Tensor:
        module, reached = self.network.get_submodule(self.place.path), _ReachedError()

        def leave(_: nn.Module, *seen: Any) -> None:
            said = seen[-1]
            reached.features = said if isinstance(said, Tensor) else said[0]
            # A hook that raises is the one way to stop any network in its middle. An exporter keeps account of the
            # modules it is in and must not be thrown out of them; it drops by itself what no output needs.
            if not torch.compiler.is_exporting():
                raise reached

        before = self.place.side == "input"
        hook = module.register_forward_pre_hook(leave) if before else module.register_forward_hook(leave)
        try:
            self.network(*inputs)
        except _ReachedError as here:
            if here is not reached:
                raise
        finally:
            hook.remove()
        if reached.features is None:
            raise LimbeckError(f"the network never came to {self.place.path!r}, where its exit is")
        return reached.features


class _ReachedError(Exception):
    """The place was reached, and this stood there."""

    features: Tensor | None = None
