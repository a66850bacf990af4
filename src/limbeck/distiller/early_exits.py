"""Early exits: the student up to a stage, with the classifier that was learned on it (``losses.BYOTLoss``).

Zhang et al., ICCV 2019, https://arxiv.org/abs/1905.08094. An exit is a network like any other: it can be measured and
exported, and computes nothing behind its stage.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.distiller.distiller import Distiller
from limbeck.features import parse_layer
from limbeck.losses import BYOTLoss

__all__ = ["EarlyExit", "early_exits"]


def early_exits(distiller: Distiller) -> dict[str, nn.Module]:
    """Every early exit of a distiller, by the name of its tap, from shallow to deep; none where no term has heads.

    They share their weights with the student and the heads. ``limbeck.export.to_onnx`` writes each to a file of its
    own, with the parity check.
    """
    return {
        name: EarlyExit(distiller.student, distiller.student_feature_layers[name], loss.head(name)).eval()
        for loss in distiller.objective.losses.values()
        if isinstance(loss, BYOTLoss)
        for name in loss.layers
    }


@final
class EarlyExit(nn.Module):
    """A network up to one of its places, and a head on what stands there; gives logits ``[batch, classes]``.

    Arguments:
        network: the whole network; the modules behind the place do not run.
        layer: as taps are written: ``layer2``, or ``layer2:input``.
        head: from the features to logits, or to a tuple that begins with them.
    """

    def __init__(self, network: nn.Module, layer: str, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head, self.layer = network, head, parse_layer(layer)
        if self.layer.call_index is not None:
            raise LimbeckError(f"an exit at {layer!r} would have to count runs: tap a module that runs once")

    def forward(self, *inputs: Any) -> Tensor:
        """The logits at the exit."""
        features = self._forward_features(*inputs)
        output = self.head(features)
        logits: Tensor = output[0] if isinstance(output, tuple) else output
        return logits

    def _forward_features(self, *inputs: Any) -> Tensor:
        module, stop = self.network.get_submodule(self.layer.path), _StopForward()

        def stop_forward(_: nn.Module, *hook_args: Any) -> None:
            output = hook_args[-1]
            stop.features = output if isinstance(output, Tensor) else output[0]
            # A hook that raises is the one way to stop any network in its middle. An exporter keeps account of the
            # modules it is in and must not be thrown out of them; it drops by itself what no output needs.
            if not torch.compiler.is_exporting():
                raise stop

        is_input = self.layer.side == "input"
        hook = (
            module.register_forward_pre_hook(stop_forward) if is_input else module.register_forward_hook(stop_forward)
        )
        try:
            self.network(*inputs)
        except _StopForward as error:
            if error is not stop:
                raise
        finally:
            hook.remove()
        if stop.features is None:
            raise LimbeckError(f"the network never came to {self.layer.path!r}, where its exit is")
        return stop.features


class _StopForward(Exception):
    """The place was reached, and this stood there."""

    features: Tensor | None = None
