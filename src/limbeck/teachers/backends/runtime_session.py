"""Runs ONNX models in ONNX Runtime (https://onnxruntime.ai) or OpenVINO (https://docs.openvino.ai) on the CPU.

Both use ``torch.get_num_threads()`` threads.
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

__all__ = ["RUNTIMES", "Runtime", "RuntimeSession", "missing_package_message"]

Runtime = Literal["onnxruntime", "openvino"]
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")
# By the names of ONNX Runtime and OpenVINO.
_NUMPY_DTYPES = {
    "tensor(float)": np.float32, "f32": np.float32, "tensor(float16)": np.float16, "f16": np.float16,
    "tensor(double)": np.float64, "f64": np.float64,
}  # fmt: skip


class _Session(NamedTuple):
    """``dtype [shape]`` by input and output name, the batch size if it is fixed, and the forward function."""

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
        name: name of the model in error messages.
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
            raise LimbeckError(f"{name}: unknown runtime {runtime!r}; available: {suggest_names(runtime, RUNTIMES)}")
        self.model, self.runtime, self.name = model, runtime, name
        self._session = session = _load_model(model, runtime, name)
        if len(session.inputs) != 1:
            raise LimbeckError(f"{name} must have one input, got {len(session.inputs)} ({', '.join(session.inputs)})")
        self.input_name = _resolve_port_name(name, "input", input_name, list(session.inputs))
        self.output_name = _resolve_port_name(name, "output", output_name, list(session.outputs))
        dtype = session.inputs[self.input_name].partition(" ")[0]
        if dtype not in _NUMPY_DTYPES:
            raise LimbeckError(f"{name}: the input {self.input_name} must be floating point, got {dtype}")
        self._dtype = _NUMPY_DTYPES[dtype]

    def __call__(self, inputs: ArrayLike) -> NDArray[Any]:
        """Output for a batch ``[n, ...]`` (an array or a CPU tensor), in chunks where the batch size is fixed."""
        array = np.asarray(inputs)
        size = self._session.batch_size or len(array)
        chunks = [array] if size == len(array) else [array[i : i + size] for i in range(0, len(array), size)]
        try:
            return np.concatenate([self._run(chunk, size) for chunk in chunks])
        except Exception as error:  # each runtime has its own error types
            raise LimbeckError(
                f"{self.name}: the input {self.input_name} must be {self._session.inputs[self.input_name]}, got "
                f"{array.dtype} {list(array.shape)} ({self.runtime}: {format_root_cause(error)})"
            ) from error

    def _run(self, chunk: NDArray[Any], size: int) -> NDArray[Any]:
        """The output for a chunk, padded with its last row to ``size`` rows."""
        padded = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])
        return self._session.run(self.input_name, self.output_name, padded.astype(self._dtype, copy=False))[
            : len(chunk)
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._session = _load_model(self.model, self.runtime, self.name)


def missing_package_message(backend: str) -> str | None:
    """An error message that says how to install ``backend``; ``None`` if it is installed.

    >>> missing_package_message("onnxruntime")
    """
    if backend in RUNTIMES and find_spec(backend) is None:
        return f"{backend} is not installed: pip install {'limbeck[openvino]' if backend == 'openvino' else backend}"
    return None


def _load_model(model: bytes | str, runtime: Runtime, name: str) -> _Session:
    if (missing_package := missing_package_message(runtime)) is not None:
        raise LimbeckError(f"{name}: {missing_package}")
    try:
        return _load_onnxruntime(model) if runtime == "onnxruntime" else _load_openvino(model)
    except Exception as error:
        raise LimbeckError(
            f"{runtime} cannot load {name} ({format_root_cause(error)}): export it again with a supported opset"
        ) from error


def _load_onnxruntime(model: bytes | str) -> _Session:
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
    return _Session(inputs, outputs, shape[0] if shape and isinstance(shape[0], int) else None, run)


@cache
def _openvino_core() -> Any:
    """The OpenVINO core, one per process.

    The CPU plugin installs a signal stack in the thread and frees it with the core. Depending on the order in which
    several cores are freed, a freed stack stays installed, and the next signal causes a segmentation fault (seen with
    OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def _load_openvino(model: bytes | str) -> _Session:
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
    return _Session(inputs, outputs, shape[0].get_length() if len(shape) and shape[0].is_static else None, run)


def _resolve_port_name(model_name: str, kind: str, name: str | None, names: list[str]) -> str:
    if name is None and len(names) > 1:
        raise LimbeckError(f"{model_name} has {len(names)} {kind}s ({', '.join(names)}): set {kind}_name")
    if name is not None and name not in names:
        raise LimbeckError(f"{model_name} has no {kind} named {name!r}; available: {suggest_names(name, names)}")
    return names[0] if name is None else name
