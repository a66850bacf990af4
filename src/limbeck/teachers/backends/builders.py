"""Builds each inference backend for one network and the calls that the task makes on a real batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.features import FeatureExtractor, layer_root, parse_layer, unwrap_model
from limbeck.models.onnx_graph import export_onnx_bytes
from limbeck.teachers.backends.fold_batchnorm import FoldedModel, fold_batchnorm
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


@final
class BackendUnsupported(LimbeckError):
    """Why a backend does not support a network; the message completes "not fold_batchnorm: …"."""


class RecordedCall(NamedTuple):
    """Arguments and output of one call of a network."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


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
    """

    network: nn.Module
    feature_layers: Mapping[str, str]
    calls: Sequence[RecordedCall]

    def empty_feature_extractor(self) -> FeatureExtractor:
        """An extractor of no features, for backends without forward hooks."""
        if self.feature_layers:
            raise BackendUnsupported(f"it has no layers to read the features {', '.join(self.feature_layers)} from")
        return FeatureExtractor(self.network, {})

    @cached_property
    def example_input(self) -> Tensor:
        """The only input of the network, a float32 tensor on the CPU."""
        if len(self.calls) != 1 or len(self.calls[0].args) != 1 or self.calls[0].kwargs:
            raise BackendUnsupported("the task must call the network once with one tensor")
        example, output = self.calls[0].args[0], self.calls[0].output
        if not isinstance(example, Tensor) or not isinstance(output, Tensor):
            type_name = type(output if isinstance(example, Tensor) else example).__name__
            raise BackendUnsupported(f"input and output of the network must be one tensor, got {type_name}")
        tensors = [example, *self.network.parameters(), *self.network.buffers()]
        if not all(tensor.is_cpu for tensor in tensors):
            raise BackendUnsupported("the teacher must be on the CPU")
        dtypes = {str(t.dtype) for t in (output, *tensors) if t.is_floating_point() and t.dtype != torch.float32}
        if dtypes or torch.is_autocast_enabled("cpu"):
            raise BackendUnsupported(f"the teacher must be float32, got {', '.join(sorted(dtypes)) or 'autocast'}")
        return example

    @cached_property
    def onnx_graph(self) -> bytes:
        """The network as an ONNX file, exported once for all runtimes."""
        network = unwrap_model(self.network)
        try:
            return export_onnx_bytes(network, self.example_input, name=type(network).__name__)
        except LimbeckError as error:
            raise BackendUnsupported(str(error)) from error


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
    return PreparedModel(_RuntimeModel(context.network, session, context.example_input), feature_extractor)


BUILDERS: Mapping[str, Callable[[BuildContext], PreparedModel]] = {
    "eager": _build_eager,
    "fold_batchnorm": _build_fold_batchnorm,
    "compile": _build_compile,
    "onnxruntime": partial(_build_runtime, runtime="onnxruntime"),
    "openvino": partial(_build_runtime, runtime="openvino"),
}


@final
class _RuntimeModel(nn.Module):
    """Runs a runtime session, and the network itself for inputs of another shape or dtype."""

    def __init__(self, network: nn.Module, session: RuntimeSession, example: Tensor) -> None:
        super().__init__()
        self.network, self.session = network, session
        self.input_shape, self.dtype = example.shape[1:], example.dtype
        self.has_warned = False

    def forward(self, input: Tensor) -> Tensor:
        """Logits ``[batch, classes]``."""
        if input.shape[1:] == self.input_shape and input.dtype == self.dtype and len(input):
            return torch.from_numpy(self.session(input.detach().numpy()))
        if not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"{self.session.runtime} was built for inputs {list(self.input_shape)}; inputs "
                f"{list(input.shape[1:])} run in eager torch, which is slower",
                stacklevel=2,
            )
        logits: Tensor = self.network(input)
        return logits
