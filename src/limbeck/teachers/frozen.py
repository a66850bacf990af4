"""Frozen networks as teachers: eval mode, no gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task, Teacher
from limbeck.features import FeatureExtractor
from limbeck.teachers.backends import InferenceBackend, compute_outputs
from limbeck.teachers.external.external_teacher import ExternalTeacher, missing_rows
from limbeck.teachers.identity import fingerprint_network

__all__ = ["FrozenTeacher"]


@final
class FrozenTeacher(Teacher):
    """Wraps an ``nn.Module`` as a frozen teacher (eval mode, no gradients).

    Args:
        network: the module; it is set to eval mode and its parameters to ``requires_grad=False``.
        feature_layers: layers to read features from, by feature name.
        backend: what computes the outputs, see :class:`~limbeck.teachers.InferenceBackend`: ``eager``,
            ``fold_batchnorm``, ``compile``, ``onnxruntime``, ``openvino``, or ``auto``, the fastest with equal
            outputs. An object is shared.

    It is no ``nn.Module``, so that ``train()``, ``parameters()`` and ``state_dict()`` of the student do not reach it;
    its device and precision change with :meth:`to`. ``backend.report`` holds the selected backend after the first
    batch. ``ignored_attributes`` are the paths of attributes that each call changes, which :meth:`fingerprint` ignores.
    """

    def __init__(
        self,
        network: nn.Module,
        feature_layers: Mapping[str, str] | None = None,
        *,
        backend: InferenceBackend | str = "eager",
    ) -> None:
        self._network = network.eval().requires_grad_(False)
        self.feature_layers = dict(feature_layers or {})
        self.backend = InferenceBackend(backend) if isinstance(backend, str) else backend
        self.backend.require_feature_support(self.feature_layers)
        if isinstance(network, ExternalTeacher) and self.feature_layers:
            raise LimbeckError(f"{network.name} has no layers to read features from: remove {self.feature_layers}")
        if isinstance(network, ExternalTeacher) and self.backend.name != "eager":
            raise LimbeckError(f"the backend of {network.name} must be eager, got {self.backend.name!r}: remove it")
        self.ignored_attributes: frozenset[str] = frozenset()
        self.feature_extractor = FeatureExtractor(network, self.feature_layers)
        self._modules = list(network.modules())

    @property
    def network(self) -> nn.Module:
        """The frozen module."""
        return self._network

    @torch.no_grad()
    def predict(self, batch: Any, task: Task) -> Outputs:
        """Outputs of the network for ``batch``, with the features."""
        if any(module.training for module in self._modules):
            self.network.eval()
        if self.backend.name == "eager":
            outputs = compute_outputs(self.network, self.feature_extractor, batch, task)
        else:
            outputs = self.backend.predict(self.network, self.feature_layers, batch, task)
        if isinstance(self.network, ExternalTeacher) and self.network.allow_missing:
            num_samples = next(len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim)
            return _mark_missing_samples(outputs, num_samples)
        return outputs

    def to(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply ``fn`` to the weights, as ``nn.Module.to`` does."""
        previous = self._devices_and_dtypes()
        self.network._apply(fn)  # type: ignore[no-untyped-call]
        if self._devices_and_dtypes() != previous:
            self.backend.reset()

    def with_features(self, feature_layers: Mapping[str, str]) -> FrozenTeacher:
        """The same network with the features at ``feature_layers``."""
        return FrozenTeacher(self.network, feature_layers, backend=self.backend)

    def fingerprint(self) -> str:
        """See :func:`limbeck.teachers.identity.fingerprint_network`."""
        return fingerprint_network(self.network, self.feature_layers, ignore=self.ignored_attributes)

    def __repr__(self) -> str:
        backend = "" if self.backend.name == "eager" else f", backend={self.backend.name!r}"
        return f"FrozenTeacher({type(self.network).__name__}{backend})"

    def _devices_and_dtypes(self) -> set[tuple[torch.device, torch.dtype]]:
        return {(tensor.device, tensor.dtype) for tensor in (*self.network.parameters(), *self.network.buffers())}


def _mark_missing_samples(outputs: Outputs, num_samples: int) -> Outputs:
    """``outputs`` with zeros for NaN, since a cache stores no NaN, and samples whose rows are all NaN not ``valid``."""
    missing = missing_rows(outputs.require_logits())
    if outputs.row_to_sample is not None:
        num_present = torch.zeros(num_samples, dtype=torch.long, device=missing.device)
        missing = num_present.index_add(0, outputs.row_to_sample, (~missing).long()) == 0
    rows = outputs.row_to_sample
    filled = replace(outputs, valid=None, row_to_sample=None).map(lambda t: t.where(t == t, 0))
    return replace(filled, valid=~missing, row_to_sample=rows)
