"""An ONNX graph in a runtime for inference on the CPU, in float32, with as many threads as torch has.

onnxruntime: https://onnxruntime.ai. OpenVINO: https://docs.openvino.ai.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.core.errors import LimbeckError, format_root_cause, suggest_names

__all__ = ["RUNTIMES", "Runtime", "RuntimeSession", "find_missing_package"]

Runtime = Literal["onnxruntime", "openvino"]
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")


class _LoadedGraph(NamedTuple):
    """A graph that is ready: inputs and outputs as name and ``type [shape]``, its batch where fixed, how to run it."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    batch_size: int | None
    run: Callable[[str, str, NDArray[Any]], NDArray[Any]]


@final
class RuntimeSession:
    """Runs one ONNX graph of one input.

    Arguments:
        model: the bytes of a file, or its path.
        runtime: ``onnxruntime`` or ``openvino``.
        name: what the graph is called in an error.
        input_name: the name of its input, where that is to be checked.
        output_name: the name of the output to read, needed where there are several.

    Raises ``LimbeckError``: the runtime is not installed, cannot load the graph, or the graph has other names. It
    survives copy and pickle, and is opened again there.
    """

    def __init__(
        self,
        model: bytes | str,
        *,
        runtime: Runtime,
        name: str,
        input_name: str | None = None,
        output_name: str | None = None,
    ) -> None:
        if runtime not in RUNTIMES:
            raise LimbeckError(f"{name}: {runtime!r} is no runtime; there are: {suggest_names(runtime, RUNTIMES)}")
        self.model, self.runtime, self.name = model, runtime, name
        self._graph = _load_graph(model, runtime, name)
        if len(self._graph.inputs) != 1:
            raise LimbeckError(
                f"{name} takes {len(self._graph.inputs)} inputs ({', '.join(self._graph.inputs)}), and a teacher is "
                "asked with one: export it with one input"
            )
        self.input_name = _resolve_port_name(name, "input", input_name, list(self._graph.inputs))
        self.output_name = _resolve_port_name(name, "output", output_name, list(self._graph.outputs))

    @property
    def input_dtype(self) -> str:
        """The type of the input, as the runtime calls it."""
        return self._graph.inputs[self.input_name].partition(" ")[0]

    def __call__(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """The answer to a batch ``[n, ...]``, or one sentence on why the graph does not take it.

        A graph that was exported for batches of one size is asked as often as it takes.
        """
        graph = self._graph
        try:
            return np.concatenate(
                [
                    graph.run(self.input_name, self.output_name, chunk)[:num_rows]
                    for chunk, num_rows in _split_batches(inputs, graph.batch_size)
                ]
            )
        except Exception as error:  # each runtime has errors of its own
            raise LimbeckError(
                f"{self.name}: {self.runtime} refuses inputs of {inputs.dtype} {list(inputs.shape)}; it takes "
                f"{self.input_name}, {graph.inputs[self.input_name]} ({format_root_cause(error)})"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_graph"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._graph = _load_graph(self.model, self.runtime, self.name)


def find_missing_package(backend: str) -> str | None:
    """What to install for ``backend``; ``None`` where it is there.

    >>> find_missing_package("onnxruntime")
    """
    if backend in RUNTIMES and find_spec(backend) is None:
        return f"{backend} is not installed: pip install {'limbeck[openvino]' if backend == 'openvino' else backend}"
    return None


def _load_graph(model: bytes | str, runtime: Runtime, name: str) -> _LoadedGraph:
    if (missing_package := find_missing_package(runtime)) is not None:
        raise LimbeckError(f"{name}: {missing_package}")
    try:
        return {"onnxruntime": _load_onnxruntime, "openvino": _load_openvino}[runtime](model)
    except Exception as error:
        raise LimbeckError(
            f"{runtime} cannot load {name} ({format_root_cause(error)}): the file is damaged, or of a version it does not know"
        ) from error


def _load_onnxruntime(model: bytes | str) -> _LoadedGraph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(input: str, output: str, array: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = session.run([output], {input: array})[0]
        return result

    batch_dim = next((port.shape[0] for port in session.get_inputs() if port.shape), None)
    return _LoadedGraph(
        {port.name: f"{port.type} {port.shape}" for port in session.get_inputs()},
        {port.name: f"{port.type} {port.shape}" for port in session.get_outputs()},
        batch_dim if isinstance(batch_dim, int) else None, run,
    )  # fmt: skip


@cache
def _openvino_core() -> Any:
    """The one core of this process, kept to its end.

    Its CPU plugin gives the thread a stack for signals and frees it with the core. Freed in another order than made,
    a stack that is gone stays in place, and the next Ctrl-C would end in a segmentation fault instead of a checkpoint
    (seen with OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def _load_openvino(model: bytes | str) -> _LoadedGraph:
    core = _openvino_core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1,
        # Two processes that both pin themselves to the first core would halve each other's speed.
        "ENABLE_CPU_PINNING": False,
    }  # fmt: skip
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()

    def run(input: str, output: str, array: NDArray[Any]) -> NDArray[Any]:
        request.infer({input: array}, share_inputs=True)
        return np.array(request.get_tensor(output).data)

    def describe_ports(ports: Any) -> dict[str, str]:
        return {
            port.get_any_name(): f"{port.get_element_type().get_type_name()} {port.get_partial_shape()}"
            for port in ports
        }

    shape = compiled.inputs[0].get_partial_shape() if compiled.inputs else []
    batch_dim = shape[0] if len(shape) else None
    batch_size = batch_dim.get_length() if batch_dim is not None and batch_dim.is_static else None
    return _LoadedGraph(describe_ports(compiled.inputs), describe_ports(compiled.outputs), batch_size, run)


def _split_batches(inputs: NDArray[Any], batch_size: int | None) -> Iterator[tuple[NDArray[Any], int]]:
    """What to ask with, and how many of its rows count: where the batch is fixed, the last one is filled up."""
    if batch_size is None or batch_size == len(inputs):
        yield np.ascontiguousarray(inputs), len(inputs)
        return
    for start in range(0, len(inputs), batch_size):
        chunk = inputs[start : start + batch_size]
        yield np.concatenate([chunk, np.repeat(chunk[-1:], batch_size - len(chunk), axis=0)]), len(chunk)


def _resolve_port_name(model_name: str, side: str, name: str | None, names: list[str]) -> str:
    if name is None and len(names) > 1:
        raise LimbeckError(f"{model_name} has {len(names)} {side}s ({', '.join(names)}): name the one with the logits")
    if name is not None and name not in names:
        raise LimbeckError(f"{model_name} has no {side} named {name!r}; there are: {suggest_names(name, names)}")
    return names[0] if name is None else name
