"""Parts of a network that stand still for a while, weights and statistics alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from limbeck.features import FeatureExtractor

__all__ = ["freeze_modules"]


@contextmanager
def freeze_modules(network: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Hold the modules at ``paths`` still while it lasts: they get no gradient and run in eval mode.

    So BatchNorm keeps its statistics as well as its weights, and dropout is off. Afterwards those parameters are free
    again that were before, and the modules are in the mode of the network. A path that is nowhere is an error that
    names the nearest.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    >>> with freeze_modules(network, ["0", "1"]):
    ...     sum(p.numel() for p in network.parameters() if p.requires_grad)
    8
    >>> sum(p.numel() for p in network.parameters() if p.requires_grad)
    23
    """
    FeatureExtractor(network, {path: path for path in paths})
    modules = [network.get_submodule(path) for path in paths]
    trainable = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]

    def set_eval(model: nn.Module, _: Any) -> None:
        # Whoever calls train() on the whole network reaches its frozen parts as well: put them back before they run.
        # A copy has this hook too (a student in shares is one), and its own parts.
        for submodule in map(model.get_submodule, paths):
            if any(module.training for module in submodule.modules()):
                submodule.eval()

    hook = network.register_forward_pre_hook(set_eval) if modules else None
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in modules:
            module.train(network.training)
        if hook is not None:
            hook.remove()
