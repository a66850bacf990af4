"""A network that teaches and does not learn: no gradient, eval mode, whatever happens around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.features import FeatureExtractor
from limbeck.teachers.adapter import TeacherAdapter
from limbeck.teachers.backends import InferenceBackend
from limbeck.teachers.backends.call_recorder import compute_outputs
from limbeck.teachers.external.external_teacher import ExternalTeacher, missing_rows
from limbeck.teachers.model_fingerprint import fingerprint_network

__all__ = ["FrozenTeacher"]

_get_training = attrgetter("training")
_WRAPPED_ATTRIBUTE = "module"


@final
class FrozenTeacher:
    """A teacher of flesh: a module in eval mode that gets no gradient.

    Arguments:
        network: any module; it is put in eval mode and its parameters stop asking for gradients.
        feature_layers: places to read, by the name to give them.
        backend: what computes the answers: ``eager``, ``fold_batchnorm``, ``compile``, ``onnxruntime``, ``openvino``, or
            ``auto``, the fastest that answers like eager; an :class:`~limbeck.teachers.InferenceBackend` to share a choice.

    It is deliberately no ``nn.Module``: so the student's ``train()``, ``parameters()`` and ``state_dict()`` never
    reach it. Its device and precision follow through :meth:`to`. Which engine runs, and how much faster it is, stands
    in ``frozen.backend.report`` after the first batch.
    """

    def __init__(
        self,
        network: nn.Module,
        feature_layers: Mapping[str, str] | None = None,
        *,
        backend: InferenceBackend | str = "eager",
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        # Behind an adapter, a place is still named as in the network itself.
        prefix = f"{_WRAPPED_ATTRIBUTE}." if isinstance(network, TeacherAdapter) else ""
        self.feature_layers = {name: prefix + layer for name, layer in (feature_layers or {}).items()}
        self.backend = InferenceBackend(backend) if isinstance(backend, str) else backend
        self._check_settings()
        self.feature_extractor = FeatureExtractor(network, self.feature_layers)
        self._modules = list(network.modules())

    def predict(self, batch: Any, task: Task) -> Outputs:
        """What the network says about ``batch``, as the task reads it, with the tapped features."""
        if any(map(_get_training, self._modules)):
            self.network.eval()
        with torch.no_grad():
            if self.backend.name == "eager":
                outputs = compute_outputs(self.network, self.feature_extractor, batch, task)
            else:
                outputs = self.backend.predict(self.network, self.feature_layers, batch, task)
        return _mask_missing_rows(outputs) if getattr(self.network, "allow_missing", False) else outputs

    def to(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply to the weights what ``nn.Module.to`` applies to its own."""
        previous = self._devices_and_dtypes()
        self.network._apply(fn)  # type: ignore[no-untyped-call]
        if self._devices_and_dtypes() != previous:
            self.backend.reset()

    def with_features(self, feature_layers: Mapping[str, str]) -> FrozenTeacher:
        """The same network with features read at ``feature_layers``."""
        return FrozenTeacher(self.network, feature_layers, backend=self.backend)

    def fingerprint(self) -> str:
        """What it is: weights, layers, source text, and the places read."""
        return fingerprint_network(self.network, self.feature_layers)

    def __repr__(self) -> str:
        backend = "" if self.backend.name == "eager" else f", backend={self.backend.name!r}"
        return f"FrozenTeacher({type(self.network).__name__}{backend})"

    def _check_settings(self) -> None:
        self.backend.require_feature_support(self.feature_layers)
        if isinstance(self.network, ExternalTeacher) and self.feature_layers:
            raise LimbeckError(
                f"{self.network.name} gives answers only, so nothing in it can be tapped: {self.feature_layers}"
            )
        if isinstance(self.network, ExternalTeacher) and self.backend.name != "eager":
            raise LimbeckError(f"{self.network.name} answers by itself: leave backend {self.backend.name!r} away")

    def _devices_and_dtypes(self) -> set[tuple[torch.device, torch.dtype]]:
        return {(tensor.device, tensor.dtype) for tensor in (*self.network.parameters(), *self.network.buffers())}


def _mask_missing_rows(outputs: Outputs) -> Outputs:
    """``outputs`` with the samples that were not answered, whose rows hold zeros from then on: a cache keeps numbers."""
    logits = outputs.require_logits()
    missing = missing_rows(logits)
    return replace(outputs, logits=logits.masked_fill(missing[:, None], 0.0), valid=~missing)
