"""BatchNorm folded into the preceding convolution or linear layer, and images in channels-last order.

In eval mode BatchNorm is a fixed scale and shift, which the preceding layer can apply (Jacob et al., 2018,
https://arxiv.org/abs/1712.05877, section 3.2; ``torch.nn.utils.fusion``). An fx trace finds the pairs of layers; the
network's code and modules are kept, so that forward hooks still work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.utils._pytree import tree_map

from limbeck.utils.parametrizations import copy_module, fold_parametrizations

__all__ = ["FoldedModel", "fold_batchnorm"]

_FUSIONS: dict[Any, tuple[Any, Any]] = {
    nn.Conv1d: (nn.BatchNorm1d, fuse_conv_bn_eval),
    nn.Conv2d: (nn.BatchNorm2d, fuse_conv_bn_eval),
    nn.Conv3d: (nn.BatchNorm3d, fuse_conv_bn_eval),
    nn.Linear: (nn.BatchNorm1d, fuse_linear_bn_eval),
}


def fold_batchnorm(network: nn.Module, *, exclude: Set[str] = frozenset()) -> tuple[nn.Module, str]:
    """A copy of ``network`` with BatchNorm folded, and a note where there was nothing to fold.

    Args:
        network: a network in eval mode, which is not changed.
        exclude: paths of modules whose inputs and outputs must stay the same.

    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
    >>> fold_batchnorm(network)[0]
    Sequential(
      (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): ReLU()
    )
    """
    folded = fold_parametrizations(copy_module(network)).requires_grad_(False)
    try:
        graph = fx.symbolic_trace(folded).graph
    except Exception as error:  # tracing runs the network's code, which may branch on values
        return folded, f"no BatchNorm folded, the network cannot be traced ({type(error).__name__})"
    pairs = [pair for pair in _find_foldable_pairs(folded, graph) if not exclude & set(pair)]
    for layer_path, norm_path in pairs:
        layer, norm = folded.get_submodule(layer_path), folded.get_submodule(norm_path)
        folded.set_submodule(layer_path, _FUSIONS[type(layer)][1](layer, norm).requires_grad_(False))
        folded.set_submodule(norm_path, nn.Identity())
    return folded, "" if pairs else "no BatchNorm folded, none follows a layer of torch.nn"


@final
class FoldedModel(nn.Module):
    """Runs a folded network on channels-last images without autograd."""

    def __init__(self, network: nn.Module, *, inference: bool) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.grad_mode = torch.inference_mode if inference else torch.no_grad

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(_to_channels_last, (args, kwargs))
        with self.grad_mode():
            output = self.network(*args, **kwargs)
        # An inference tensor cannot be saved for the backward pass of a loss; a clone made outside can.
        return output.clone() if isinstance(output, Tensor) and output.is_inference() else output


def _find_foldable_pairs(network: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, str]]:
    """Paths of each layer that is followed by a BatchNorm only, and of that BatchNorm."""
    modules = dict(network.named_modules())
    call_counts = Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        producer = node.args[0] if node.op == "call_module" and node.args else None
        if not (isinstance(producer, fx.Node) and producer.op == "call_module" and len(producer.users) == 1):
            continue
        layer, norm = modules[str(producer.target)], modules[str(node.target)]
        # Exact types: a subclass may compute something else.
        if type(layer) not in _FUSIONS or type(norm) is not _FUSIONS[type(layer)][0] or norm.running_mean is None:
            continue
        if call_counts[id(layer)] == call_counts[id(norm)] == 1 and not (_has_hooks(layer) or _has_hooks(norm)):
            yield str(producer.target), str(node.target)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _to_channels_last(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value
