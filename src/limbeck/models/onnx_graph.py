"""A network as an ONNX graph (https://onnx.ai) that takes batches of any size, by ``torch.onnx`` and torch.export."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, format_root_cause

__all__ = ["OPSET", "export_onnx_bytes"]

OPSET = 18
_MAX_WEIGHT_BYTES = 2**31 - 1


def export_onnx_bytes(network: nn.Module, example_inputs: Tensor, *, name: str) -> bytes:
    """The file's bytes: one ``input``, one output ``logits``, the weights inside, the first dimension free.

    Args:
        network: on the CPU and in eval mode; takes one tensor and gives one. It stays as it is.
        example_inputs: inputs ``[n, ...]`` that define shape and dtype.
        name: what the network is called in an error.

    Raises:
        LimbeckError: the network cannot be exported, or passes the 2 GB that one file holds.
    """
    num_bytes = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    if num_bytes > _MAX_WEIGHT_BYTES:
        raise LimbeckError(f"one ONNX file holds up to 2 GB, and the weights are {num_bytes / 2**30:.1f} GB")
    # The exporter takes an example batch of one as a promise that there will never be more.
    two_inputs = torch.cat([example_inputs[:1], example_inputs[-1:]])
    try:
        with _suppress_output(), torch.no_grad():
            program = torch.onnx.export(
                network, (two_inputs,), dynamo=True, opset_version=OPSET, input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
            )  # fmt: skip
            assert program is not None
            proto = program.model_proto
    except Exception as error:  # the exporter raises whatever the network's own code does
        raise LimbeckError(
            f"{name} cannot be exported to ONNX ({format_root_cause(error)}): its forward has to be tensor "
            "operations for any batch "
            "size, without a branch on values"
        ) from error
    _strip_metadata(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _strip_metadata(proto: Any) -> None:
    """Take off the exporter's notes: they hold this machine's paths, and are most of a small file."""
    del proto.metadata_props[:]
    _strip_graph(proto.graph)
    for function in proto.functions:
        del function.metadata_props[:]
        _strip_nodes(function.node)


def _strip_graph(graph: Any) -> None:
    for item in (graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Any) -> None:
    for node in nodes:
        del node.metadata_props[:]
        for attribute in node.attribute:  # the branches and bodies of If and Loop are graphs again
            for subgraph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _strip_graph(subgraph)


@contextlib.contextmanager
def _suppress_output() -> Iterator[None]:
    """Suppresses prints, warnings and log lines of the exporter; the parity check reports what matters."""
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
