"""A network in ONNX Runtime or OpenVINO: any number of tensors in, a pytree of tensors out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from limbeck.core.errors import LimbeckError
from limbeck.features import unwrap_model
from limbeck.models.onnx_graph import export_onnx_bytes
from limbeck.teachers.backends.runtime_session import RuntimeSession

__all__ = ["BackendUnsupported", "RecordedCall", "RuntimeModel", "export_call", "require_tensors"]

_BATCH_AXIS = {0: "batch"}


@final
class BackendUnsupported(LimbeckError):
    """Why a backend does not support a network; the message completes "not fold_batchnorm: …"."""


class RecordedCall(NamedTuple):
    """Arguments and output of one call of a network."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


def require_tensors(network: nn.Module, calls: Sequence[RecordedCall]) -> RecordedCall:
    """The only one of ``calls``, if its inputs and outputs are tensors that a runtime takes; float32 and on the CPU."""
    if len(calls) != 1:
        raise BackendUnsupported(f"the task must call the network once, got {len(calls)} calls")
    call = calls[0]
    inputs, outputs = [*call.args, *call.kwargs.values()], tree_leaves(call.output)
    for kind, values in (("input", inputs), ("output", outputs)):
        wrong = next((value for value in values if not isinstance(value, Tensor) or not value.ndim), None)
        if wrong is not None or not values:
            type_name = "nothing" if not values else type(wrong).__name__
            raise BackendUnsupported(f"each {kind} of the network must be a tensor [n, ...], got {type_name}")
    tensors = [*inputs, *network.parameters(), *network.buffers()]
    if not all(tensor.is_cpu for tensor in tensors):
        raise BackendUnsupported("the teacher must be on the CPU")
    dtypes = {str(t.dtype) for t in (*outputs, *tensors) if t.is_floating_point() and t.dtype != torch.float32}
    if dtypes or torch.is_autocast_enabled("cpu"):
        raise BackendUnsupported(f"the teacher must be float32, got {', '.join(sorted(dtypes)) or 'autocast'}")
    return call


def export_call(network: nn.Module, call: RecordedCall, input_axes: Mapping[str, Mapping[int, str]]) -> bytes:
    """``network`` as an ONNX file with the inputs of ``call`` by name, and the tensors of its output in their order.

    Args:
        network: the network, in eval mode.
        call: an example.
        input_axes: of the task; inputs that it does not name are of any batch size only.
    """
    network, tensors = unwrap_model(network), _named_tensors(call, input_axes)
    num_outputs = len(tree_leaves(call.output))
    try:
        return export_onnx_bytes(
            _FlatModule(network, len(call.args), tuple(call.kwargs)).eval(), tuple(tensors.values()),
            name=type(network).__name__, input_axes={name: input_axes.get(name, _BATCH_AXIS) for name in tensors},
            output_names=[f"output_{index}" for index in range(num_outputs)],
        )  # fmt: skip
    except LimbeckError as error:
        raise BackendUnsupported(str(error)) from error


@final
class RuntimeModel(nn.Module):
    """Runs a runtime session, and the network itself for inputs of another shape or dtype.

    Args:
        network: the network.
        session: of a file of :func:`export_call`.
        call: the example of that file.
        input_axes: of that file.
    """

    def __init__(
        self, network: nn.Module, session: RuntimeSession, call: RecordedCall,
        input_axes: Mapping[str, Mapping[int, str]],
    ) -> None:  # fmt: skip
        super().__init__()
        self.network, self.session = network, session
        tensors = _named_tensors(call, input_axes)
        self._axes = {name: input_axes.get(name, _BATCH_AXIS) for name in tensors}
        self._arg_names = list(tensors)[: len(call.args)]
        self._signature = self._describe(tensors)
        self._output_spec = tree_flatten(call.output)[1]
        self.has_warned = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the network."""
        tensors = {**dict(zip(self._arg_names, args, strict=False)), **kwargs}
        is_complete = len(args) == len(self._arg_names) and len(tensors) == len(self._signature)
        if is_complete and self._describe(tensors) == self._signature and len(next(iter(tensors.values()))):
            outputs = self.session(**{name: tensor.detach().numpy() for name, tensor in tensors.items()})
            arrays = [torch.from_numpy(outputs[name]) for name in sorted(outputs, key=_output_index)]
            return tree_unflatten(arrays, self._output_spec)
        if not self.has_warned:
            self.has_warned = True
            shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors.values() if isinstance(tensor, Tensor))
            expected = ", ".join(f"[{', '.join(map(str, shape))}]" for _, shape in self._signature.values())
            warnings.warn(
                f"{self.session.runtime} was built for inputs {expected}; inputs {shapes} run in eager torch, which "
                "is slower",
                stacklevel=2,
            )
        return self.network(*args, **kwargs)

    def _describe(self, tensors: Mapping[str, Any]) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        """Dtype and shape of each input, with the names of axes of variable size."""
        return {
            name: (tensor.dtype, tuple(self._axes[name].get(i, size) for i, size in enumerate(tensor.shape)))
            for name, tensor in tensors.items()
            if isinstance(tensor, Tensor) and name in self._axes
        }


@final
class _FlatModule(nn.Module):
    """A network called with tensors in order, which returns the tensors of its output in a tuple."""

    def __init__(self, network: nn.Module, num_args: int, keywords: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.num_args, self.keywords = network, num_args, keywords

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        kwargs = dict(zip(self.keywords, inputs[self.num_args :], strict=True))
        return tuple(tree_leaves(self.network(*inputs[: self.num_args], **kwargs)))


def _named_tensors(call: RecordedCall, input_axes: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inputs of ``call``; positional ones have the names of ``input_axes`` in their order."""
    names = [name for name in input_axes if name not in call.kwargs]
    names += [f"input_{index}" for index in range(len(names), len(call.args))]
    return {**dict(zip(names, call.args, strict=False)), **call.kwargs}


def _output_index(name: str) -> int:
    return int(name.rpartition("_")[2])
