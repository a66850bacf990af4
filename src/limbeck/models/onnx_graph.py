"""A network as an ONNX graph (https://onnx.ai) that takes batches of any size, by ``torch.onnx`` and torch.export."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.utils.parametrizations import copy_module, fold_parametrizations, has_parametrizations

__all__ = ["OPSET", "export_onnx_bytes", "suppress_output"]

OPSET = 18
_MAX_WEIGHT_BYTES = 2**31 - 1


def export_onnx_bytes(
    network: nn.Module, example_inputs: Tensor | Sequence[Tensor], *, name: str,
    input_axes: Mapping[str, Mapping[int, str]] | None = None, output_names: Sequence[str] = ("logits",),
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> bytes:  # fmt: skip
    """Bytes of an ONNX file with the weights; by default one ``input``, one output ``logits``, of any batch size.

    Weights that the network computes (``weight_norm``, ``spectral_norm``) are in the file as they are computed.

    Args:
        network: on the CPU and in eval mode; maps positional tensors to a tensor or a tuple.
        example_inputs: inputs ``[n, ...]`` that define shape and dtype.
        name: name of the network in errors.
        input_axes: the names of several inputs in their order, with their axes of variable size.
        output_names: names of the outputs in their order.
        metadata: text by key, written as ``metadata_props``.

    Raises:
        LimbeckError: the network cannot be exported, or exceeds the 2 GB of one file.
    """
    num_bytes = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    if num_bytes > _MAX_WEIGHT_BYTES:
        raise LimbeckError(f"one ONNX file holds up to 2 GB, and the weights are {num_bytes / 2**30:.1f} GB")
    if has_parametrizations(network):
        network = fold_parametrizations(copy_module(network))
    # The exporter would specialize on an example batch of one.
    tensors = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    two_inputs = tuple(torch.cat([tensor[:1], tensor[-1:]]) for tensor in tensors)
    dynamic_shapes: Any = ({0: torch.export.Dim("batch")},)
    if input_axes is not None:  # of a network with *inputs; a name is the same size wherever it is found
        dynamic_shapes = (tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in input_axes.values()),)
    try:
        with suppress_output(), torch.no_grad():
            program = torch.onnx.export(
                network, two_inputs, dynamo=True, opset_version=OPSET, input_names=list(input_axes or ["input"]),
                output_names=list(output_names), dynamic_shapes=dynamic_shapes, external_data=False, verbose=False,
            )  # fmt: skip
            assert program is not None
            proto = program.model_proto
    except Exception as error:  # the network's code can raise anything
        raise LimbeckError(
            f"{name} cannot be exported to ONNX ({format_root_cause(error)}); its forward must be tensor operations "
            "for any batch size, without a branch on values"
        ) from error
    _strip_metadata([proto, *proto.functions])
    _strip_graph(proto.graph)
    for function in proto.functions:
        _strip_nodes(function.node)
    for key, value in sorted(metadata.items()):
        proto.metadata_props.add(key=key, value=value)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


@contextlib.contextmanager
def suppress_output() -> Iterator[None]:
    """Suppresses prints, warnings and log lines of an exporter, whose result is checked."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _strip_metadata(items: Iterable[Any]) -> None:
    """Removes the exporter's notes, which hold paths of this machine and are most of a small file."""
    for item in items:
        del item.metadata_props[:]


def _strip_graph(graph: Any) -> None:
    _strip_metadata((graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer))
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Any) -> None:
    _strip_metadata(nodes)
    for node in nodes:
        for attribute in node.attribute:  # the branches and bodies of If and Loop are graphs
            for subgraph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _strip_graph(subgraph)
