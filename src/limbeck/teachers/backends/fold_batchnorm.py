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

__all__ = ["FoldedModel", "fold_batchnorm"]

_FUSIONS: dict[Any, tuple[Any, Any]] = {
    nn.Conv1d: (nn.BatchNorm1d, fuse_conv_bn_eval),
    nn.Conv2d: (nn.BatchNorm2d, fuse_conv_bn_eval),
    nn.Conv3d: (nn.BatchNorm3d, fuse_conv_bn_eval),
    nn.Linear: (nn.BatchNorm1d, fuse_linear_bn_eval),
}


def fold_batchnorm(network: nn.Module, *, exclude: Set[str] = frozenset()) -> tuple[nn.Module, str]:
    """A copy of ``network`` with BatchNorm folded, and a note where nothing could be.

    Arguments:
        network: in eval mode; it stays as it is. One that cannot be traced is only copied, and the note says so.
        exclude: modules, by path, that are to see and to give what they did before.

    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
    >>> fold_batchnorm(network)[0]
    Sequential(
      (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): ReLU()
    )
    """
    folded = copy.deepcopy(network).requires_grad_(False)
    try:
        graph = fx.symbolic_trace(folded).graph
    except Exception as error:  # tracing runs the network's own code, which may branch on values
        return folded, f"nothing was folded, for it cannot be traced ({type(error).__name__})"
    pairs = [pair for pair in _find_foldable_pairs(folded, graph) if not exclude & set(pair)]
    for layer, norm in pairs:
        layer_module, norm_module = folded.get_submodule(layer), folded.get_submodule(norm)
        _replace_module(folded, layer, _FUSIONS[type(layer_module)][1](layer_module, norm_module).requires_grad_(False))
        _replace_module(folded, norm, nn.Identity())
    return folded, "" if pairs else "nothing was folded, for no BatchNorm follows a layer of torch's own"


@final
class FoldedModel(nn.Module):
    """Runs a folded network on channels-last pictures, without anything that only a backward pass would need."""

    def __init__(self, network: nn.Module, *, inference: bool) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.grad_mode = torch.inference_mode if inference else torch.no_grad

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network says."""
        with self.grad_mode():
            output = self.network(
                *map(_to_channels_last, args), **{name: _to_channels_last(value) for name, value in kwargs.items()}
            )
        # The student's loss may keep a teacher's answer for its backward pass, which is forbidden for a tensor that
        # was made in inference mode; a copy that is made outside is an ordinary one.
        return output.clone() if isinstance(output, Tensor) and output.is_inference() else output


def _find_foldable_pairs(network: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, str]]:
    """The paths of layers and of the BatchNorm that nothing but follows each."""
    modules = dict(network.named_modules())
    # A module that runs twice has two neighbours.
    call_counts = Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        producer = node.args[0] if node.op == "call_module" and node.args else None
        if not (isinstance(producer, fx.Node) and producer.op == "call_module" and len(producer.users) == 1):
            continue
        layer, norm = modules[str(producer.target)], modules[str(node.target)]
        # Only torch's own classes: one that inherits may do more than its parent.
        if type(layer) not in _FUSIONS or type(norm) is not _FUSIONS[type(layer)][0] or norm.running_mean is None:
            continue
        if call_counts[id(layer)] == call_counts[id(norm)] == 1 and not (_has_hooks(layer) or _has_hooks(norm)):
            yield str(producer.target), str(node.target)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _replace_module(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def _to_channels_last(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value
