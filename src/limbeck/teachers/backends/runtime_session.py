"""ONNX models in ONNX Runtime (https://onnxruntime.ai) or OpenVINO (https://docs.openvino.ai) on the CPU.

They get as many threads as torch has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from limbeck.core.errors import LimbeckError, format_root_cause, suggest_names

__all__ = ["RUNTIMES", "Runtime", "RuntimeSession", "find_missing_package"]

Runtime = Literal["onnxruntime", "openvino"]
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")
# Names of onnxruntime and of OpenVINO.
_NUMPY_DTYPES = {
    "tensor(float)": np.float32, "f32": np.float32, "tensor(float16)": np.float16, "f16": np.float16,
    "tensor(double)": np.float64, "f64": np.float64,
}  # fmt: skip


class _LoadedGraph(NamedTuple):
    """A loaded model: ``dtype [shape]`` by input and output name, the batch size if it is fixed, and how to run it."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    batch_size: int | None
    run: Callable[[str, str, NDArray[Any]], NDArray[Any]]


@final
class RuntimeSession:
    """Runs an ONNX model with one floating-point input. It can be copied and pickled.

    Args:
        model: the bytes of the file, or its path.
        runtime: ``onnxruntime`` or ``openvino``.
        name: name of the model in errors.
        input_name: expected name of the input; ``None``: any.
        output_name: name of the output to read; ``None``: the only one.

    Raises:
        LimbeckError: the runtime is not installed or cannot load the model, or the model has other inputs or outputs.
    """

    def __init__(
        self, model: bytes | str, *, runtime: Runtime, name: str, input_name: str | None = None,
        output_name: str | None = None,
    ) -> None:  # fmt: skip
        if runtime not in RUNTIMES:
            raise LimbeckError(f"{name}: unknown runtime {runtime!r}; there are: {suggest_names(runtime, RUNTIMES)}")
        self.model, self.runtime, self.name = model, runtime, name
        self._graph = graph = _load_graph(model, runtime, name)
        if len(graph.inputs) != 1:
            raise LimbeckError(f"{name} must have one input, got {len(graph.inputs)} ({', '.join(graph.inputs)})")
        self.input_name = _resolve_port_name(name, "input", input_name, list(graph.inputs))
        self.output_name = _resolve_port_name(name, "output", output_name, list(graph.outputs))
        dtype = graph.inputs[self.input_name].partition(" ")[0]
        if dtype not in _NUMPY_DTYPES:
            raise LimbeckError(f"{name}: the input {self.input_name} must be floating point, got {dtype}")
        self._dtype = _NUMPY_DTYPES[dtype]

    def __call__(self, inputs: ArrayLike) -> NDArray[Any]:
        """Output for a batch ``[n, ...]`` (an array or a CPU tensor), in chunks where the batch size is fixed."""
        array = np.asarray(inputs)
        size = self._graph.batch_size or len(array)
        chunks = [array] if size == len(array) else [array[i : i + size] for i in range(0, len(array), size)]
        try:
            return np.concatenate([self._run(chunk, size) for chunk in chunks])
        except Exception as error:  # each runtime has its own error types
            raise LimbeckError(
                f"{self.name}: the input {self.input_name} must be {self._graph.inputs[self.input_name]}, got "
                f"{array.dtype} {list(array.shape)} ({self.runtime}: {format_root_cause(error)})"
            ) from error

    def _run(self, chunk: NDArray[Any], size: int) -> NDArray[Any]:
        """The output for a chunk, padded with its last row to ``size`` rows."""
        padded = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])
        return self._graph.run(self.input_name, self.output_name, padded.astype(self._dtype, copy=False))[: len(chunk)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_graph"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._graph = _load_graph(self.model, self.runtime, self.name)


def find_missing_package(backend: str) -> str | None:
    """How to install ``backend``; ``None`` where it is installed.

    >>> find_missing_package("onnxruntime")
    """
    if backend in RUNTIMES and find_spec(backend) is None:
        return f"{backend} is not installed: pip install {'limbeck[openvino]' if backend == 'openvino' else backend}"
    return None


def _load_graph(model: bytes | str, runtime: Runtime, name: str) -> _LoadedGraph:
    if (missing_package := find_missing_package(runtime)) is not None:
        raise LimbeckError(f"{name}: {missing_package}")
    try:
        return _load_onnxruntime(model) if runtime == "onnxruntime" else _load_openvino(model)
    except Exception as error:
        raise LimbeckError(
            f"{runtime} cannot load {name} ({format_root_cause(error)}): export it again, with a supported opset"
        ) from error


def _load_onnxruntime(model: bytes | str) -> _LoadedGraph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(input_name: str, output_name: str, array: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = session.run([output_name], {input_name: array})[0]
        return result

    inputs, outputs = (
        {port.name: f"{port.type} {port.shape}" for port in ports}
        for ports in (session.get_inputs(), session.get_outputs())
    )
    shape = session.get_inputs()[0].shape if inputs else []
    return _LoadedGraph(inputs, outputs, shape[0] if shape and isinstance(shape[0], int) else None, run)


@cache
def _openvino_core() -> Any:
    """The only core of this process.

    Its CPU plugin gives the thread a signal stack and frees it with the core. Freed in another order than created, a
    freed stack stays installed, and the next signal is a segmentation fault (OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def _load_openvino(model: bytes | str) -> _LoadedGraph:
    core = _openvino_core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # two processes would pin themselves to the same core
    }  # fmt: skip
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()

    def run(input_name: str, output_name: str, array: NDArray[Any]) -> NDArray[Any]:
        request.infer({input_name: array}, share_inputs=True)
        return np.array(request.get_tensor(output_name).data)

    inputs, outputs = (
        {port.get_any_name(): f"{port.get_element_type().get_type_name()} {port.get_partial_shape()}" for port in ports}
        for ports in (compiled.inputs, compiled.outputs)
    )
    shape = compiled.inputs[0].get_partial_shape() if compiled.inputs else []
    return _LoadedGraph(inputs, outputs, shape[0].get_length() if len(shape) and shape[0].is_static else None, run)


def _resolve_port_name(model_name: str, side: str, name: str | None, names: list[str]) -> str:
    if name is None and len(names) > 1:
        raise LimbeckError(f"{model_name} has {len(names)} {side}s ({', '.join(names)}): set {side}_name")
    if name is not None and name not in names:
        raise LimbeckError(f"{model_name} has no {side} named {name!r}; there are: {suggest_names(name, names)}")
    return names[0] if name is None else name
