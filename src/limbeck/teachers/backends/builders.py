"""Each engine, made for one network and one kind of batch, or a sentence on why it does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.features import FeatureExtractor, parse_layer, unwrap_model
from limbeck.models.onnx_graph import export_onnx_bytes
from limbeck.teachers.backends.call_recorder import BackendUnsupported, RecordedCall
from limbeck.teachers.backends.fold_batchnorm import FoldedModel, fold_batchnorm
from limbeck.teachers.backends.runtime_session import Runtime, RuntimeSession, find_missing_package

__all__ = ["BUILDERS", "BuildContext", "PreparedModel"]


class PreparedModel(NamedTuple):
    """An engine that answers: what the task calls, the taps on it, and a note where there is something to say."""

    network: nn.Module
    feature_extractor: FeatureExtractor
    note: str = ""


@final
@dataclass(frozen=True)
class BuildContext:
    """What an engine has to fit.

    Attributes:
        network: the teacher, in eval mode.
        feature_layers: its taps, by name.
        calls: how the task called it on a real batch.
    """

    network: nn.Module
    feature_layers: Mapping[str, str]
    calls: Sequence[RecordedCall]

    def empty_feature_extractor(self) -> FeatureExtractor:
        """No taps, or ``BackendUnsupported`` where features are asked for."""
        if self.feature_layers:
            raise BackendUnsupported(
                f"features are tapped ({', '.join(self.feature_layers)}), and it gives the answer only"
            )
        return FeatureExtractor(self.network, {})

    @cached_property
    def example_input(self) -> Tensor:
        """The one tensor that the network is called with, or ``BackendUnsupported``."""
        if len(self.calls) != 1 or len(self.calls[0].args) != 1 or self.calls[0].kwargs:
            raise BackendUnsupported("the task calls the network otherwise than once with one tensor")
        example, output = self.calls[0].args[0], self.calls[0].output
        if not isinstance(example, Tensor) or not isinstance(output, Tensor):
            unsupported_type = type(output if isinstance(example, Tensor) else example).__name__
            raise BackendUnsupported(f"the network takes or gives a {unsupported_type}, and not one tensor")
        tensors = [example, *self.network.parameters(), *self.network.buffers()]
        if not all(tensor.is_cpu for tensor in tensors):
            raise BackendUnsupported("it runs on the CPU, and the teacher does not")
        unsupported_dtypes = {
            str(t.dtype) for t in (output, *tensors) if t.is_floating_point() and t.dtype != torch.float32
        }
        if unsupported_dtypes or torch.is_autocast_enabled("cpu"):
            raise BackendUnsupported(
                f"it computes in float32, and the teacher in {', '.join(sorted(unsupported_dtypes)) or 'mixed precision'}"
            )
        return example

    @cached_property
    def onnx_graph(self) -> bytes:
        """The network as an ONNX file, made once for all runtimes."""
        try:
            return export_onnx_bytes(
                unwrap_model(self.network), self.example_input, name=type(unwrap_model(self.network)).__name__
            )
        except BackendUnsupported:
            raise
        except LimbeckError as error:
            raise BackendUnsupported(str(error)) from error


def _build_eager(context: BuildContext) -> PreparedModel:
    return PreparedModel(context.network, FeatureExtractor(context.network, context.feature_layers))


def _build_fold_batchnorm(context: BuildContext) -> PreparedModel:
    # A tap between the two, at the layer's output or the norm's input, would hear something else than before.
    exclude = {layer.path for layer in map(parse_layer, context.feature_layers.values())}
    folded, note = fold_batchnorm(unwrap_model(context.network), exclude=exclude)
    can_use_inference_mode = (
        not context.feature_layers and len(context.calls) == 1 and isinstance(context.calls[0].output, Tensor)
    )
    return PreparedModel(
        FoldedModel(folded, inference=can_use_inference_mode), FeatureExtractor(folded, context.feature_layers), note
    )


def _build_compile(context: BuildContext) -> PreparedModel:
    feature_extractor = context.empty_feature_extractor()
    return PreparedModel(torch.compile(context.network), feature_extractor)  # type: ignore[arg-type]


def _runtime_builder(runtime: Runtime) -> Callable[[BuildContext], PreparedModel]:
    def build(context: BuildContext) -> PreparedModel:
        feature_extractor = context.empty_feature_extractor()
        if (missing_package := find_missing_package(runtime)) is not None:
            raise BackendUnsupported(missing_package.partition(": ")[0] + f" ({missing_package.partition(': ')[2]})")
        example = context.example_input
        session = RuntimeSession(context.onnx_graph, runtime=runtime, name=type(unwrap_model(context.network)).__name__)
        return PreparedModel(_RuntimeModel(context.network, session, example), feature_extractor)

    return build


BUILDERS: Mapping[str, Callable[[BuildContext], PreparedModel]] = {
    "eager": _build_eager,
    "fold_batchnorm": _build_fold_batchnorm,
    "compile": _build_compile,
    "onnxruntime": _runtime_builder("onnxruntime"),
    "openvino": _runtime_builder("openvino"),
}


@final
class _RuntimeModel(nn.Module):
    """Asks a runtime, and torch itself where an input is of another kind than those the graph was made for."""

    def __init__(self, network: nn.Module, session: RuntimeSession, example: Tensor) -> None:
        super().__init__()
        self.network, self.session = network, session
        self.input_shape, self.dtype = example.shape[1:], example.dtype
        self.has_warned = False

    def forward(self, input: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``."""
        if input.shape[1:] == self.input_shape and input.dtype == self.dtype and len(input):
            return torch.from_numpy(self.session(input.detach().numpy()))
        if not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"{self.session.runtime} was made ready for inputs {list(self.input_shape)}, so those of "
                f"{list(input.shape[1:])} are answered by torch, as slowly as eager",
                stacklevel=2,
            )
        logits: Tensor = self.network(input)
        return logits
