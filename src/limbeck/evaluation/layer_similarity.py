"""What the layers of a network hold while it answers: where to look, and the features there, pooled over space."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.protocols import Task
from limbeck.evaluation.classification_metrics import collect_logits
from limbeck.features import FeatureExtractor, unwrap_model

__all__ = ["LOGITS_LAYER", "LayerRecorder", "find_stage_layers", "pool_features"]

LOGITS_LAYER = "logits"
"""The one layer of a network that only answers."""
_MIN_STAGES = 4
_MAX_STAGES = 8


def pool_features(features: Tensor) -> Tensor:
    """``features`` of any rank as ``[batch, width]``: the mean over space (``[b, c, h, w]``) or tokens (``[b, t, c]``).

    >>> pool_features(torch.ones(2, 3, 4, 4)).shape, pool_features(torch.ones(2, 5, 7)).shape, pool_features(torch.ones(2, 6)).shape
    (torch.Size([2, 3]), torch.Size([2, 7]), torch.Size([2, 6]))
    """
    if features.ndim == 3:
        return features.mean(dim=1)
    return features.flatten(2).mean(dim=2) if features.ndim > 3 else features.reshape(len(features), -1)


def find_stage_layers(model: nn.Module, batch: Any, task: Task) -> list[str]:
    """The places where ``model`` is looked into: its parts at the top that have weights, in the order they ran.

    Where there are fewer than four, the longest ``Sequential`` is opened (``features`` of a VGG, ``blocks`` of a ViT);
    of more than eight, eight are taken at even distances, the first and the last among them. Normalisations are left
    out, and parts that ran several times.
    """
    network = unwrap_model(model)
    layers = _parametric_layers(network, _top_level_modules(network))
    while len(layers) < _MIN_STAGES and (largest := _largest_sequential(network, layers)):
        children = [f"{largest}.{name}" for name, _ in network.get_submodule(largest).named_children()]
        index = layers.index(largest)
        layers[index : index + 1] = _parametric_layers(network, children)
    called = _called_once(network, model, layers, batch, task)
    if len(called) <= _MAX_STAGES:
        return called
    return [called[round(i * (len(called) - 1) / (_MAX_STAGES - 1))] for i in range(_MAX_STAGES)]


@final
class LayerRecorder:
    """Hears one network batch by batch: its answers, and its layers for the first samples.

    Arguments:
        model: any network; it runs in eval mode, and its modes are put back.
        batch: a first batch, to find the places by; it is not kept.
        task: what a batch means.
        layers: where to look, as taps write it; ``None``: :func:`find_stage_layers`. Without any, the logits are the one layer.
        max_samples: of how many samples the layers are kept, at most.
    """

    def __init__(
        self, model: nn.Module, batch: Any, task: Task, *, layers: Sequence[str] | None = None, max_samples: int = 1000
    ) -> None:
        layer_names = find_stage_layers(model, batch, task) if layers is None else layers
        self._model, self._task, self._max_samples = model, task, max_samples
        self._extractor = FeatureExtractor(model, {layer: layer for layer in layer_names})
        self._logits, self._target = list[Tensor](), list[Tensor]()
        self._features: dict[str, list[Tensor]] = {layer: [] for layer in layer_names or [LOGITS_LAYER]}

    def record(self, batch: Any) -> None:
        """Let the network answer ``batch``; keep what it says, and what its layers hold as long as samples are due."""
        remaining = self._max_samples - sum(map(len, next(iter(self._features.values()))))
        if remaining <= 0:
            logits, target = collect_logits(self._model, [batch], self._task)
        else:
            with torch.no_grad(), self._extractor.capture() as captured:
                logits, target = collect_logits(self._model, [batch], self._task)
            for layer, tensor in (captured or {LOGITS_LAYER: logits}).items():
                self._features[layer].append(pool_features(tensor.detach().float()).cpu()[:remaining].clone())
        self._logits.append(logits)
        self._target.append(target)

    @property
    def logits(self) -> Tensor:
        """``[n, classes]``."""
        return torch.cat(self._logits)

    @property
    def target(self) -> Tensor:
        """``[n]`` class numbers, −100 where there is no label."""
        return torch.cat(self._target)

    @property
    def features(self) -> dict[str, Tensor]:
        """``[samples, width]`` by place."""
        return {layer: torch.cat(chunks) for layer, chunks in self._features.items()}


def _top_level_modules(network: nn.Module) -> list[str]:
    """The parts at the top; of a network whose one part is the network itself, such as one in an adapter, its parts."""
    names = [name for name, _ in network.named_children()]
    while len(names) == 1 and (children := [name for name, _ in network.get_submodule(names[0]).named_children()]):
        names = [f"{names[0]}.{name}" for name in children]
    return names


def _parametric_layers(network: nn.Module, layers: Sequence[str]) -> list[str]:
    """Those that have weights and are no normalisation."""
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    modules = {layer: network.get_submodule(layer) for layer in layers}
    return [
        p for p, module in modules.items() if not isinstance(module, norms) and any(True for _ in module.parameters())
    ]


def _largest_sequential(network: nn.Module, layers: Sequence[str]) -> str | None:
    """The ``Sequential`` of the most parts, at least two."""
    num_children = {
        layer: len(module)
        for layer in layers
        if isinstance(module := network.get_submodule(layer), nn.Sequential) and len(module) > 1
    }
    return max(num_children, key=lambda layer: num_children[layer], default=None)


def _called_once(network: nn.Module, model: nn.Module, layers: Sequence[str], batch: Any, task: Task) -> list[str]:
    """Those of ``layers`` that ran once and gave one tensor with a row for each sample, in the order they ran."""
    calls: list[tuple[str, int]] = []
    with ExitStack() as hooks:
        for layer in layers:

            def record_call(module: nn.Module, args: object, result: object, layer: str = layer) -> None:
                rows = len(result) if isinstance(result, Tensor) and result.ndim > 1 else -1
                calls.append((layer, rows))

            hooks.callback(network.get_submodule(layer).register_forward_hook(record_call).remove)
        logits, _ = collect_logits(model, [batch], task)
    called = [layer for layer, _ in calls]
    return [layer for layer, rows in calls if called.count(layer) == 1 and rows == len(logits)]
