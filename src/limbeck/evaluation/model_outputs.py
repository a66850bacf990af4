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
from limbeck.evaluation.classification_metrics import predictions
from limbeck.features import Taps, bare

__all__ = ["Heard", "hear", "penultimate"]


@final
@dataclass(frozen=True, slots=True)
class Heard:
    """Answers to every sample of a part, on the CPU.

    Attributes:
        logits: ``[n, classes]``.
        target: ``[n]``, −100 where there is no label.
        features: ``[m, width]``, those of every so-manieth sample; ``None`` where the network has no linear head.
        place: where the features were read, such as ``fc:input``.
    """

    logits: Tensor
    target: Tensor
    features: Tensor | None = None
    place: str | None = None


def hear(model: nn.Module, batches: Iterable[Any], task: Task, *, every: int = 1) -> Heard:
    """Logits, truth and penultimate features of ``model`` on ``batches``, in one pass.

    Arguments:
        model: any network; it runs in eval mode, and its modes are put back.
        batches: of one part, in order.
        task: what a batch means.
        every: keep the features of each so-manieth sample only, for parts whose features would fill the memory.

    >>> from limbeck.tasks import Classification
    >>> batch = {"input": torch.ones(5, 2), "target": torch.zeros(5, dtype=torch.long)}
    >>> heard = hear(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), [batch], Classification(2), every=2)
    >>> heard.place, heard.logits.shape, heard.features.shape
    ('1:input', torch.Size([5, 2]), torch.Size([3, 3]))
    """
    if every < 1:
        raise LimbeckError(f"features are kept of every sample or of each so-manieth (1 or more), not {every}")
    items = iter(batches)
    first = next(items, None)
    if first is None:
        raise LimbeckError("there is nothing to measure on: the part gave no batch")
    place = penultimate(model, first, task)
    said, truth, kept, seen = list[Tensor](), list[Tensor](), list[Tensor](), 0
    taps = Taps(model, {} if place is None else {"features": place})
    for item in chain([first], items):
        with torch.no_grad(), taps.listening() as heard:
            logits, target = predictions(model, [item], task)
        said.append(logits)
        truth.append(target)
        if place is not None:
            kept.append(heard["features"].detach().float().cpu()[-seen % every :: every].clone())
        seen += len(logits)
    return Heard(torch.cat(said), torch.cat(truth), torch.cat(kept) if kept else None, place)


def penultimate(model: nn.Module, batch: Any, task: Task) -> str | None:
    """The place, as taps write it, of what the last linear layer takes; ``None`` where none gives the logits.

    It counts as the head if nothing linear runs after it, its output has the shape of the logits, and its input is
    ``[rows, width]``: of a network that ends in a convolution the logits themselves have to do.
    """
    ran: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    with ExitStack() as hooks:
        for path, module in bare(model).named_modules():
            if isinstance(module, nn.Linear):

                def note(module: nn.Module, args: tuple[Any, ...], result: Tensor, path: str = path) -> None:
                    ran.append((path, tuple(args[0].shape) if args else (), tuple(result.shape)))

                hooks.callback(module.register_forward_hook(note).remove)
        logits, _ = predictions(model, [batch], task)
    if not ran:
        return None
    path, taken, given = ran[-1]
    if len(taken) != 2 or given != tuple(logits.shape):
        return None
    runs = sum(one[0] == path for one in ran)
    return f"{path}:input" if runs == 1 else f"{path}@{runs - 1}:input"
