"""Freeze modules of a network, weights and BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.features import FeatureExtractor, layer_root, parse_layer

__all__ = ["freeze_modules"]


@contextmanager
def freeze_modules(network: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Freeze the modules at ``paths`` inside the context: no gradients, and eval mode.

    BatchNorm keeps its statistics, and dropout is off. Afterwards ``requires_grad`` is restored, and the modules get
    the mode of the network.

    Raises:
        LimbeckError: if the network has no module at a path.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    >>> with freeze_modules(network, ["0", "1"]):
    ...     sum(p.numel() for p in network.parameters() if p.requires_grad)
    8
    >>> sum(p.numel() for p in network.parameters() if p.requires_grad)
    23
    """
    FeatureExtractor(network, {path: path for path in paths})  # refuses an unknown path
    for path in paths:
        if path != parse_layer(path).path:
            raise LimbeckError(f"freeze must be paths of modules, got {path!r}: write {parse_layer(path).path}")
    modules = [layer_root(network).get_submodule(path) for path in paths]
    trainable = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]

    def set_eval(model: nn.Module, _: Any) -> None:
        # network.train() sets the frozen modules to train mode too. The hook also runs on a copy (FSDP), so it looks up
        # the modules of the model it gets.
        for submodule in map(layer_root(model).get_submodule, paths):
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
