"""Builds each inference backend for one network and the calls that the task makes on a real batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.features import FeatureExtractor, layer_root, parse_layer, unwrap_model
from limbeck.teachers.backends.fold_batchnorm import FoldedModel, fold_batchnorm
from limbeck.teachers.backends.runtime_model import (
    BackendUnsupported,
    RecordedCall,
    RuntimeModel,
    export_call,
    require_tensors,
)
from limbeck.teachers.backends.runtime_session import Runtime, RuntimeSession, missing_package_message

__all__ = [
    "BUILDERS",
    "BackendUnsupported",
    "BuildContext",
    "PreparedModel",
    "RecordedCall",
    "compute_outputs",
    "record_calls",
]


class PreparedModel(NamedTuple):
    """A backend ready to run: the module that the task calls, its feature extractor, and a note for the report."""

    network: nn.Module
    feature_extractor: FeatureExtractor
    note: str = ""

    def predict(self, batch: Any, task: Task) -> Outputs:
        """Outputs for ``batch``."""
        return compute_outputs(self.network, self.feature_extractor, batch, task)


def compute_outputs(network: nn.Module, feature_extractor: FeatureExtractor, batch: Any, task: Task) -> Outputs:
    """Outputs of ``network`` for ``batch``, with the features, without gradients."""
    if not len(feature_extractor):
        return task.outputs(network, batch).detach()
    with feature_extractor.capture() as features:
        outputs = task.outputs(network, batch)
    return replace(outputs, features=features).detach()


def record_calls(
    network: nn.Module, feature_extractor: FeatureExtractor, batch: Any, task: Task
) -> tuple[Outputs, list[RecordedCall]]:
    """Outputs for ``batch``, and the calls of the network; no calls where the task uses another method than forward."""
    calls: list[RecordedCall] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        calls.append(RecordedCall(args, kwargs, output))

    handle = network.register_forward_hook(record, with_kwargs=True)
    try:
        return compute_outputs(network, feature_extractor, batch, task), calls
    finally:
        handle.remove()


@final
@dataclass(frozen=True)
class BuildContext:
    """What a backend is built from.

    Attributes:
        network: the teacher, in eval mode.
        feature_layers: layers to read features from, by feature name.
        calls: calls of the network by the task on a real batch.
        input_axes: of the task, which names inputs with their axes of variable size.
    """

    network: nn.Module
    feature_layers: Mapping[str, str]
    calls: Sequence[RecordedCall]
    input_axes: Mapping[str, Mapping[int, str]] = field(default_factory=lambda: {"input": {0: "batch"}})

    def empty_feature_extractor(self) -> FeatureExtractor:
        """An extractor of no features, for backends without forward hooks."""
        if self.feature_layers:
            raise BackendUnsupported(f"it has no layers to read the features {', '.join(self.feature_layers)} from")
        return FeatureExtractor(self.network, {})

    @cached_property
    def onnx_call(self) -> RecordedCall:
        """The only call of the network, with tensors that a runtime takes."""
        return require_tensors(self.network, self.calls)

    @cached_property
    def onnx_graph(self) -> bytes:
        """The network as an ONNX file, exported once for all runtimes."""
        return export_call(self.network, self.onnx_call, self.input_axes)


def _build_eager(context: BuildContext) -> PreparedModel:
    return PreparedModel(context.network, FeatureExtractor(context.network, context.feature_layers))


def _build_fold_batchnorm(context: BuildContext) -> PreparedModel:
    # Folding would change the features at the layer's output and at the norm's input.
    network, root = unwrap_model(context.network), layer_root(context.network)
    layers = {id(root.get_submodule(parse_layer(layer).path)) for layer in context.feature_layers.values()}
    exclude = {path for path, module in network.named_modules(remove_duplicate=False) if id(module) in layers}
    folded, note = fold_batchnorm(network, exclude=exclude)
    inference = not context.feature_layers and len(context.calls) == 1 and isinstance(context.calls[0].output, Tensor)
    feature_extractor = FeatureExtractor(folded, context.feature_layers)
    return PreparedModel(FoldedModel(folded, inference=inference), feature_extractor, note)


def _build_compile(context: BuildContext) -> PreparedModel:
    feature_extractor = context.empty_feature_extractor()
    return PreparedModel(torch.compile(context.network), feature_extractor)  # type: ignore[arg-type]


def _build_runtime(context: BuildContext, *, runtime: Runtime) -> PreparedModel:
    feature_extractor = context.empty_feature_extractor()
    if (missing_package := missing_package_message(runtime)) is not None:
        raise BackendUnsupported(missing_package)
    name = type(unwrap_model(context.network)).__name__
    session = RuntimeSession(context.onnx_graph, runtime=runtime, name=name)
    model = RuntimeModel(context.network, session, context.onnx_call, context.input_axes)
    return PreparedModel(model, feature_extractor)


BUILDERS: Mapping[str, Callable[[BuildContext], PreparedModel]] = {
    "eager": _build_eager,
    "fold_batchnorm": _build_fold_batchnorm,
    "compile": _build_compile,
    "onnxruntime": partial(_build_runtime, runtime="onnxruntime"),
    "openvino": partial(_build_runtime, runtime="openvino"),
}
