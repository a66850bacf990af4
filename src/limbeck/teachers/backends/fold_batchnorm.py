"""BatchNorm folded into the convolution or linear layer before it, and pictures in channels-last order.

In eval mode BatchNorm is a fixed scale and shift, which the layer before it can carry (Jacob et al., 2018,
https://arxiv.org/abs/1712.05877, section 3.2); the arithmetic is torch's ``torch.nn.utils.fusion``. A trace tells which
layers follow each other; the network's own code and modules stay, so that hooks and taps find their places.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Set
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

__all__ = ["Folded", "fold"]

_PAIRS: dict[Any, tuple[Any, Any]] = {
    nn.Conv1d: (nn.BatchNorm1d, fuse_conv_bn_eval),
    nn.Conv2d: (nn.BatchNorm2d, fuse_conv_bn_eval),
    nn.Conv3d: (nn.BatchNorm3d, fuse_conv_bn_eval),
    nn.Linear: (nn.BatchNorm1d, fuse_linear_bn_eval),
}


def fold(network: nn.Module, *, keep: Set[str] = frozenset()) -> tuple[nn.Module, str]:
    """A copy of ``network`` with BatchNorm folded, and a note where nothing could be.

    Arguments:
        network: in eval mode; it stays as it is. One that cannot be traced is only copied, and the note says so.
        keep: modules, by path, that are to see and to give what they did before.

    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
    >>> fold(network)[0]
    Sequential(
      (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): ReLU()
    )
    """
    copied = copy.deepcopy(network).requires_grad_(False)
    try:
        graph = fx.symbolic_trace(copied).graph
    except Exception as error:  # tracing runs the network's own code, which may branch on values
        return copied, f"nothing was folded, for it cannot be traced ({type(error).__name__})"
    pairs = [pair for pair in _pairs(copied, graph) if not keep & set(pair)]
    for layer, norm in pairs:
        one, other = copied.get_submodule(layer), copied.get_submodule(norm)
        _put(copied, layer, _PAIRS[type(one)][1](one, other).requires_grad_(False))
        _put(copied, norm, nn.Identity())
    return copied, "" if pairs else "nothing was folded, for no BatchNorm follows a layer of torch's own"


@final
class Folded(nn.Module):
    """Runs a folded network on channels-last pictures, without anything that only a backward pass would need."""

    def __init__(self, network: nn.Module, *, inference: bool) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.mode = torch.inference_mode if inference else torch.no_grad

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network says."""
        with self.mode():
            said = self.network(*map(_last, args), **{name: _last(value) for name, value in kwargs.items()})
        # The student's loss may keep a teacher's answer for its backward pass, which is forbidden for a tensor that
        # was made in inference mode; a copy that is made outside is an ordinary one.
        return said.clone() if isinstance(said, Tensor) and said.is_inference() else said


def _pairs(network: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, str]]:
    """The paths of layers and of the BatchNorm that nothing but follows each."""
    modules = dict(network.named_modules())
    # A module that runs twice has two neighbours.
    runs = Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not (isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1):
            continue
        layer, norm = modules[str(before.target)], modules[str(node.target)]
        # Only torch's own classes: one that inherits may do more than its parent.
        if type(layer) not in _PAIRS or type(norm) is not _PAIRS[type(layer)][0] or norm.running_mean is None:
            continue
        if runs[id(layer)] == runs[id(norm)] == 1 and not (_hooked(layer) or _hooked(norm)):
            yield str(before.target), str(node.target)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def _last(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value
