"""How a task calls a network, heard from one real batch: so an engine takes the place of any network under any task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.features import FeatureExtractor

__all__ = ["BackendUnsupported", "RecordedCall", "compute_outputs", "max_relative_difference", "record_calls"]


@final
class BackendUnsupported(LimbeckError):
    """Why an engine cannot take the place of a network; the words complete "not fold_batchnorm: …"."""


@final
@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call of the network: what it was given, and what it gave."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


@final
class _CallRecorder(nn.Module):
    """Passes calls on to a network and writes them down."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, list[RecordedCall]()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network says."""
        output = self.network(*args, **kwargs)
        self.calls.append(RecordedCall(args, kwargs, output))
        return output


def record_calls(
    network: nn.Module, feature_extractor: FeatureExtractor, batch: Any, task: Task
) -> tuple[Outputs, list[RecordedCall]]:
    """The answer of ``network`` to ``batch``, and how the task called it; none where it did so by another method."""
    recorder = _CallRecorder(network)
    try:
        return compute_outputs(recorder, feature_extractor, batch, task), recorder.calls
    except AttributeError:  # the task calls a method of the network's own
        return compute_outputs(network, feature_extractor, batch, task), []


def compute_outputs(network: nn.Module, feature_extractor: FeatureExtractor, batch: Any, task: Task) -> Outputs:
    """What ``network`` says about ``batch``, as the task reads it, with the tapped features."""
    if not len(feature_extractor):
        return task.outputs(network, batch).detach()
    with feature_extractor.capture() as features:
        outputs = task.outputs(network, batch)
    return replace(outputs, features=features).detach()


def max_relative_difference(outputs: Outputs, expected: Outputs) -> float:
    """The largest difference of a number, as a share of the largest number that was expected beside it.

    >>> max_relative_difference(Outputs(logits=torch.tensor([[3.0, 1.0]])), Outputs(logits=torch.tensor([[4.0, 1.0]])))
    0.25
    """
    actual_tensors, expected_tensors = _named_tensors(outputs), _named_tensors(expected)
    if {n: t.shape for n, t in actual_tensors.items()} != {n: t.shape for n, t in expected_tensors.items()}:
        return float("inf")
    return max(
        (
            _relative_difference(actual_tensors[name].float(), expected_tensors[name].float())
            for name in expected_tensors
        ),
        default=0.0,
    )


def _relative_difference(actual: Tensor, expected: Tensor) -> float:
    if not expected.numel():
        return 0.0
    # Where both are infinite (a class that is impossible), they agree, and the difference would be NaN.
    equal = actual == expected
    gap = torch.where(equal, 0.0, (actual - expected).abs())
    scale = float(expected[expected.isfinite()].abs().max()) if bool(expected.isfinite().any()) else 0.0
    relative = float(gap.max()) / max(scale, 1e-30)
    return relative if relative == relative else float("inf")


def _named_tensors(outputs: Outputs) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for item in fields(outputs):
        value = getattr(outputs, item.name)
        if isinstance(value, Tensor):
            tensors[item.name] = value
        elif isinstance(value, Mapping):
            tensors |= {f"{item.name}.{name}": tensor for name, tensor in value.items()}
    return tensors
