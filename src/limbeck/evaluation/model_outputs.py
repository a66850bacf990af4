"""What a network says about a part, and the features it says it from: the input of its last linear layer."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Task
from limbeck.evaluation.classification_metrics import collect_logits
from limbeck.features import FeatureExtractor, unwrap_model

__all__ = ["ModelOutputs", "collect_outputs", "penultimate_layer"]


@final
@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """Answers to every sample of a part, on the CPU.

    Attributes:
        logits: ``[n, classes]``.
        target: ``[n]``, −100 where there is no label.
        features: ``[m, width]``, those of every so-manieth sample; ``None`` where the network has no linear head.
        layer: where the features were read, such as ``fc:input``.
    """

    logits: Tensor
    target: Tensor
    features: Tensor | None = None
    layer: str | None = None


def collect_outputs(model: nn.Module, batches: Iterable[Any], task: Task, *, every: int = 1) -> ModelOutputs:
    """Logits, truth and penultimate features of ``model`` on ``batches``, in one pass.

    Arguments:
        model: any network; it runs in eval mode, and its modes are put back.
        batches: of one part, in order.
        task: what a batch means.
        every: keep the features of each so-manieth sample only, for parts whose features would fill the memory.

    >>> from limbeck.tasks import Classification
    >>> batch = {"input": torch.ones(5, 2), "target": torch.zeros(5, dtype=torch.long)}
    >>> heard = collect_outputs(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), [batch], Classification(2), every=2)
    >>> heard.layer, heard.logits.shape, heard.features.shape
    ('1:input', torch.Size([5, 2]), torch.Size([3, 3]))
    """
    if every < 1:
        raise LimbeckError(f"features are kept of every sample or of each so-manieth (1 or more), not {every}")
    iterator = iter(batches)
    first_batch = next(iterator, None)
    if first_batch is None:
        raise LimbeckError("there is nothing to measure on: the part gave no batch")
    layer = penultimate_layer(model, first_batch, task)
    all_logits, targets, features, num_seen = list[Tensor](), list[Tensor](), list[Tensor](), 0
    extractor = FeatureExtractor(model, {} if layer is None else {"features": layer})
    for batch in chain([first_batch], iterator):
        with torch.no_grad(), extractor.capture() as captured:
            logits, target = collect_logits(model, [batch], task)
        all_logits.append(logits)
        targets.append(target)
        if layer is not None:
            features.append(captured["features"].detach().float().cpu()[-num_seen % every :: every].clone())
        num_seen += len(logits)
    return ModelOutputs(torch.cat(all_logits), torch.cat(targets), torch.cat(features) if features else None, layer)


def penultimate_layer(model: nn.Module, batch: Any, task: Task) -> str | None:
    """The place, as taps write it, of what the last linear layer takes; ``None`` where none gives the logits.

    It counts as the head if nothing linear runs after it, its output has the shape of the logits, and its input is
    ``[rows, width]``: of a network that ends in a convolution the logits themselves have to do.
    """
    calls: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    with ExitStack() as hooks:
        for path, module in unwrap_model(model).named_modules():
            if isinstance(module, nn.Linear):

                def record_call(module: nn.Module, args: tuple[Any, ...], result: Tensor, path: str = path) -> None:
                    calls.append((path, tuple(args[0].shape) if args else (), tuple(result.shape)))

                hooks.callback(module.register_forward_hook(record_call).remove)
        logits, _ = collect_logits(model, [batch], task)
    if not calls:
        return None
    path, input_shape, output_shape = calls[-1]
    if len(input_shape) != 2 or output_shape != tuple(logits.shape):
        return None
    num_calls = sum(call[0] == path for call in calls)
    return f"{path}:input" if num_calls == 1 else f"{path}@{num_calls - 1}:input"
