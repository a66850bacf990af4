"""Early exits: the student up to a layer, with the classifier trained there (``losses.BYOTLoss``).

Zhang et al., ICCV 2019, https://arxiv.org/abs/1905.08094. An exit can be measured and exported like any network, and
does not run the layers after it.
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
    """Build the early exits of a distiller by feature name, from shallow to deep; empty without a ``BYOTLoss``.

    They share their weights with the student and the heads.
    """
    return {
        name: EarlyExit(distiller.student, distiller.student_feature_layers[name], loss.head(name)).eval()
        for loss in distiller.objective.losses.values()
        if isinstance(loss, BYOTLoss)
        for name in loss.layers
    }


@final
class EarlyExit(nn.Module):
    """A network up to a layer, followed by a head; returns logits ``[batch, classes]``.

    Args:
        network: the full network; modules after the layer do not run.
        layer: ``layer2``, or ``layer2:input``.
        head: maps the features to logits, or to a tuple that begins with them.
    """

    def __init__(self, network: nn.Module, layer: str, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head, self.layer = network, head, parse_layer(layer)
        if self.layer.call_index is not None:
            raise LimbeckError(
                f"the layer of an early exit must not count calls, got {layer!r}: use a module that runs once"
            )

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
            # An exception from a hook stops any network. An exporter tracks the modules it is in and removes unused
            # operations itself.
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
            raise LimbeckError(f"the forward pass did not reach {self.layer.path!r}, the layer of the early exit")
        return stop.features


class _StopForward(Exception):
    """The forward pass reached the layer; holds its features."""

    features: Tensor | None = None
