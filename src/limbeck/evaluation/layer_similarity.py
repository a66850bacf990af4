"""What the layers of a network hold while it answers: where to look, and the features there, pooled over space."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.protocols import Task
from limbeck.evaluation.classification_metrics import predictions
from limbeck.features import Taps, bare

__all__ = ["LOGITS", "Ear", "pooled", "stages"]

LOGITS = "logits"
"""The one layer of a network that only answers."""
_ENOUGH = 4
_MOST = 8


def pooled(features: Tensor) -> Tensor:
    """``features`` of any rank as ``[batch, width]``: the mean over space (``[b, c, h, w]``) or tokens (``[b, t, c]``).

    >>> pooled(torch.ones(2, 3, 4, 4)).shape, pooled(torch.ones(2, 5, 7)).shape, pooled(torch.ones(2, 6)).shape
    (torch.Size([2, 3]), torch.Size([2, 7]), torch.Size([2, 6]))
    """
    if features.ndim == 3:
        return features.mean(dim=1)
    return features.flatten(2).mean(dim=2) if features.ndim > 3 else features.reshape(len(features), -1)


def stages(model: nn.Module, batch: Any, task: Task) -> list[str]:
    """The places where ``model`` is looked into: its parts at the top that have weights, in the order they ran.

    Where there are fewer than four, the longest ``Sequential`` is opened (``features`` of a VGG, ``blocks`` of a ViT);
    of more than eight, eight are taken at even distances, the first and the last among them. Normalisations are left
    out, and parts that ran several times.
    """
    network = bare(model)
    places = _learning(network, _top(network))
    while len(places) < _ENOUGH and (longest := _openable(network, places)):
        inside = [f"{longest}.{name}" for name, _ in network.get_submodule(longest).named_children()]
        at = places.index(longest)
        places[at : at + 1] = _learning(network, inside)
    ran = _ran(network, model, places, batch, task)
    if len(ran) <= _MOST:
        return ran
    return [ran[round(i * (len(ran) - 1) / (_MOST - 1))] for i in range(_MOST)]


@final
class Ear:
    """Hears one network batch by batch: its answers, and its layers for the first samples.

    Arguments:
        model: any network; it runs in eval mode, and its modes are put back.
        batch: a first batch, to find the places by; it is not kept.
        task: what a batch means.
        places: where to look, as taps write it; ``None``: :func:`stages`. Without any, the logits are the one layer.
        samples: of how many samples the layers are kept, at most.
    """

    def __init__(
        self, model: nn.Module, batch: Any, task: Task, *, places: Sequence[str] | None = None, samples: int = 1000
    ) -> None:
        found = stages(model, batch, task) if places is None else places
        self._model, self._task, self._samples = model, task, samples
        self._taps = Taps(model, {place: place for place in found})
        self._logits, self._target = list[Tensor](), list[Tensor]()
        self._layers: dict[str, list[Tensor]] = {place: [] for place in found or [LOGITS]}

    def hear(self, batch: Any) -> None:
        """Let the network answer ``batch``; keep what it says, and what its layers hold as long as samples are due."""
        due = self._samples - sum(map(len, next(iter(self._layers.values()))))
        if due <= 0:
            logits, target = predictions(self._model, [batch], self._task)
        else:
            with torch.no_grad(), self._taps.listening() as heard:
                logits, target = predictions(self._model, [batch], self._task)
            for place, tensor in (heard or {LOGITS: logits}).items():
                self._layers[place].append(pooled(tensor.detach().float()).cpu()[:due].clone())
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
    def layers(self) -> dict[str, Tensor]:
        """``[samples, width]`` by place."""
        return {place: torch.cat(parts) for place, parts in self._layers.items()}


def _top(network: nn.Module) -> list[str]:
    """The parts at the top; of a network whose one part is the network itself, such as one in an adapter, its parts."""
    names = [name for name, _ in network.named_children()]
    while len(names) == 1 and (inside := [name for name, _ in network.get_submodule(names[0]).named_children()]):
        names = [f"{names[0]}.{name}" for name in inside]
    return names


def _learning(network: nn.Module, places: Sequence[str]) -> list[str]:
    """Those that have weights and are no normalisation."""
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    modules = {place: network.get_submodule(place) for place in places}
    return [
        p for p, module in modules.items() if not isinstance(module, norms) and any(True for _ in module.parameters())
    ]


def _openable(network: nn.Module, places: Sequence[str]) -> str | None:
    """The ``Sequential`` of the most parts, at least two."""
    parts = {
        place: len(module)
        for place in places
        if isinstance(module := network.get_submodule(place), nn.Sequential) and len(module) > 1
    }
    return max(parts, key=lambda place: parts[place], default=None)


def _ran(network: nn.Module, model: nn.Module, places: Sequence[str], batch: Any, task: Task) -> list[str]:
    """Those of ``places`` that ran once and gave one tensor with a row for each sample, in the order they ran."""
    seen: list[tuple[str, int]] = []
    with ExitStack() as hooks:
        for place in places:

            def note(module: nn.Module, args: object, result: object, place: str = place) -> None:
                rows = len(result) if isinstance(result, Tensor) and result.ndim > 1 else -1
                seen.append((place, rows))

            hooks.callback(network.get_submodule(place).register_forward_hook(note).remove)
        logits, _ = predictions(model, [batch], task)
    once = [place for place, _ in seen]
    return [place for place, rows in seen if once.count(place) == 1 and rows == len(logits)]
