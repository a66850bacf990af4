"""Logits, targets and layer features of a network over the batches of a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Task
from limbeck.data.split import UNLABELED
from limbeck.evaluation.checks import model_device, move_to_device
from limbeck.features import FeatureExtractor, layer_root, parse_layer, trace_calls
from limbeck.losses._ops import hard_labels
from limbeck.utils.count_samples import count_samples
from limbeck.utils.eval_mode import eval_mode
from limbeck.utils.frames import mask_frames

__all__ = ["LayerRecorder", "ModelOutputs", "collect_outputs"]

_LOGITS_LAYER = "logits"  # the only layer of a network without modules
_MIN_STAGES = 4
_MAX_STAGES = 8
_NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


@final
@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """Outputs for the samples of a split, on the CPU.

    Attributes:
        logits: ``[n, classes]``.
        target: ``[n]``, −100 for no label.
        features: ``[m, width]`` penultimate features of every k-th sample; ``None`` without a linear head.
        layer: where the features come from, such as ``fc:input``.
    """

    logits: Tensor
    target: Tensor
    features: Tensor | None = None
    layer: str | None = None


@final
class LayerRecorder:
    """Records the pooled features of the layers of a network batch by batch, and its logits where samples have some.

    Args:
        model: the network; it runs in eval mode.
        batch: a batch to find the layers with; it is not recorded.
        task: the task of the batches.
        layers: layers to record; ``None``: :func:`find_stage_layers`. If empty, the logits are the only layer, where
            the task has one row for each sample.
        every: record the features of every k-th sample.
        max_samples: maximum number of samples with features.
    """

    def __init__(
        self, model: nn.Module, batch: Any, task: Task, *, layers: Sequence[str] | None = None, every: int = 1,
        max_samples: float = 1000,
    ) -> None:  # fmt: skip
        layers = find_stage_layers(model, batch, task) if layers is None else layers
        self._model, self._task, self._every, self._max_samples = model, task, every, max_samples
        self._extractor = FeatureExtractor(model, {layer: layer for layer in layers})
        self._logits, self._target = list[Tensor](), list[Tensor]()
        self._features: dict[str, list[Tensor]] = {layer: [] for layer in layers or [_LOGITS_LAYER]}
        self._num_seen = self._num_recorded = 0

    def record(self, batch: Any) -> None:
        """Run the network on ``batch`` and record its outputs."""
        num_samples = count_samples(batch)
        if self._num_recorded >= self._max_samples:
            outputs = _logits_by_sample(self._model, batch, self._task)
        else:
            with torch.no_grad(), self._extractor.capture() as captured:
                outputs = _logits_by_sample(self._model, batch, self._task)
            indices = torch.arange(-self._num_seen % self._every, num_samples, self._every)
            indices = indices[: int(min(self._max_samples - self._num_recorded, len(indices)))]
            mask = get_mask(batch) if (get_mask := getattr(self._task, "input_mask", None)) is not None else None
            logits_layer = {} if outputs is None else {_LOGITS_LAYER: outputs[0]}
            for layer, tensor in (captured or logits_layer).items():
                self._features[layer].append(pool_features(tensor.detach().float(), mask).cpu()[indices])
            self._num_recorded += len(indices)
        self._num_seen += num_samples
        if outputs is not None:
            self._logits.append(outputs[0])
            self._target.append(outputs[1])

    @property
    def logits(self) -> Tensor:
        """``[n, classes]``."""
        if not self._logits:
            raise LimbeckError(f"{type(self._task).__name__} must have logits, one row for each sample")
        return torch.cat(self._logits)

    @property
    def target(self) -> Tensor:
        """``[n]`` class indices, −100 for no label."""
        return torch.cat(self._target)

    @property
    def features(self) -> dict[str, Tensor]:
        """``[samples, width]`` by layer."""
        return {layer: torch.cat(chunks) for layer, chunks in self._features.items() if chunks}


def collect_outputs(model: nn.Module, batches: Iterable[Any], task: Task, *, every: int = 1) -> ModelOutputs:
    """Logits, targets and penultimate features (of every k-th sample) of ``model`` in eval mode, in one pass.

    >>> from limbeck.tasks import Classification
    >>> batch = {"input": torch.ones(5, 2), "target": torch.zeros(5, dtype=torch.long)}
    >>> outputs = collect_outputs(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), [batch], Classification(2), every=2)
    >>> outputs.layer, outputs.logits.shape, outputs.features.shape
    ('1:input', torch.Size([5, 2]), torch.Size([3, 3]))
    """
    if every < 1:
        raise LimbeckError(f"every must be at least 1, got {every}")
    first, batches = first_batch(batches)
    layer = penultimate_layer(model, first, task)
    layers, max_samples = ([], 0.0) if layer is None else ([layer], float("inf"))
    recorder = LayerRecorder(model, first, task, layers=layers, every=every, max_samples=max_samples)
    for batch in batches:
        recorder.record(batch)
    return ModelOutputs(recorder.logits, recorder.target, None if layer is None else recorder.features[layer], layer)


def first_batch(batches: Iterable[Any]) -> tuple[Any, Iterator[Any]]:
    """The first of ``batches``, and an iterator over all of them."""
    iterator = iter(batches)
    for batch in iterator:
        return batch, chain([batch], iterator)
    raise LimbeckError("the split must have at least one batch, got no batch")


def pool_features(features: Tensor, input_mask: Tensor | None = None) -> Tensor:
    """``features`` of any rank as ``[batch, width]``: the mean over space (``[b, c, h, w]``) or tokens (``[b, t, c]``).

    Tokens that are padding by ``input_mask`` ``[batch, longest]`` are left out.

    >>> [tuple(pool_features(torch.ones(shape)).shape) for shape in ((2, 3, 4, 4), (2, 5, 7), (2, 6))]
    [(2, 3), (2, 7), (2, 6)]
    """
    if features.ndim == 3:
        mask = None if input_mask is None else mask_frames(input_mask.to(features.device), features.shape[1])
        if mask is None:
            return features.mean(dim=1)
        valid = features.masked_fill(~mask[:, :, None], 0.0)
        return valid.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return features.flatten(2).mean(dim=2) if features.ndim > 3 else features.reshape(len(features), -1)


def penultimate_layer(model: nn.Module, batch: Any, task: Task) -> str | None:
    """Layer of the input of the classification head; ``None`` without one.

    The head is the last linear layer that runs, with the shape of the logits and an input ``[rows, width]``.
    """
    paths = [path for path, module in layer_root(model).named_modules() if isinstance(module, nn.Linear)]
    with trace_calls(model, paths) as calls:
        outputs = _logits_by_sample(model, batch, task)
    head = calls[-1] if calls else None
    if (
        head is None
        or outputs is None
        or len(head.input_shape or ()) != 2
        or list(head.output_shapes.values()) != [tuple(outputs[0].shape)]
    ):
        return None
    num_calls = sum(call.path == head.path for call in calls)
    return f"{head.path}:input" if num_calls == 1 else f"{head.path}@{num_calls - 1}:input"


def find_stage_layers(model: nn.Module, batch: Any, task: Task) -> list[str]:
    """The top-level modules of ``model`` with parameters that run once, in the order they run: its stages.

    With fewer than four, the longest ``Sequential`` is replaced by its children (``features`` of a VGG, ``blocks`` of a
    ViT); with more than eight, eight are selected at even distances. Normalization layers are left out. A single
    top-level module, such as the network in a wrapper, is replaced by its children.
    """
    network, children = layer_root(model), _child_paths(layer_root(model), "")
    while len(children) == 1 and (grandchildren := _child_paths(network, children[0])):
        children = grandchildren
    layers = _parametric_layers(network, children)
    while len(layers) < _MIN_STAGES and (largest := _largest_sequential(network, layers)):
        index = layers.index(largest)
        layers[index : index + 1] = _parametric_layers(network, _child_paths(network, largest))
    with trace_calls(model, layers) as calls:
        _logits_by_sample(model, batch, task)
    num_samples = count_samples(batch)
    num_calls = Counter(call.path for call in calls)
    # Of a module that returns several tensors, the first.
    first_outputs = [next(iter(call.output_shapes.items())) for call in calls if call.output_shapes]
    shapes = {layer: shape for layer, shape in first_outputs if num_calls[parse_layer(layer).path] == 1}
    stages = [layer for layer, shape in shapes.items() if len(shape) > 1 and shape[0] == num_samples]
    if len(stages) <= _MAX_STAGES:
        return stages
    return [stages[round(i * (len(stages) - 1) / (_MAX_STAGES - 1))] for i in range(_MAX_STAGES)]


def _logits_by_sample(model: nn.Module, batch: Any, task: Task) -> tuple[Tensor, Tensor] | None:
    """Run ``model`` in eval mode; its logits and the labels, or ``None`` where a row is not a sample."""
    device = model_device(model)
    batch = batch if device.type == "cpu" else move_to_device(batch, device)
    with eval_mode(model):
        outputs = task.outputs(model, batch)
        target = task.target(batch)
    logits = outputs.logits
    if logits is None or outputs.row_to_sample is not None or len(logits) != count_samples(batch):
        return None
    labels = torch.full((len(logits),), UNLABELED) if target is None else hard_labels(target).cpu().long()
    return logits.float().cpu(), labels


def _child_paths(network: nn.Module, path: str) -> list[str]:
    return [f"{path}.{name}".lstrip(".") for name, _ in network.get_submodule(path).named_children()]


def _parametric_layers(network: nn.Module, layers: Sequence[str]) -> list[str]:
    """Those with parameters that are no normalization layers."""
    modules = {layer: network.get_submodule(layer) for layer in layers}
    return [
        layer
        for layer, module in modules.items()
        if not isinstance(module, _NORM_LAYERS) and any(True for _ in module.parameters())
    ]


def _largest_sequential(network: nn.Module, layers: Sequence[str]) -> str | None:
    """The ``Sequential`` with the most children, at least two."""
    modules = {layer: network.get_submodule(layer) for layer in layers}
    lengths = {
        layer: len(module) for layer, module in modules.items() if isinstance(module, nn.Sequential) and len(module) > 1
    }
    return max(lengths, key=lengths.__getitem__, default=None)
