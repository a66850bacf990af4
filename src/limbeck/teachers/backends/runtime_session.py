"""Runs ONNX models in ONNX Runtime (https://onnxruntime.ai) or OpenVINO (https://docs.openvino.ai) on the CPU.

Both use ``torch.get_num_threads()`` threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    "tensor(double)": np.float64, "f64": np.float64, "tensor(int64)": np.int64, "i64": np.int64,
    "tensor(int32)": np.int32, "i32": np.int32, "tensor(uint8)": np.uint8, "u8": np.uint8,
    "tensor(bool)": np.bool_, "boolean": np.bool_,
}  # fmt: skip


class _Session(NamedTuple):
    """``dtype [shape]`` by input and output name, the batch size if it is fixed, and the forward function."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    batch_size: int | None
    run: Callable[[Sequence[str], dict[str, NDArray[Any]]], list[NDArray[Any]]]


@final
class RuntimeSession:
    """Runs an ONNX model on the CPU. It can be copied and pickled.

    Args:
        model: the bytes of the file, or its path.
        runtime: ``onnxruntime`` or ``openvino``.
        name: name of the model in error messages.
        input_name: expected name of the only input; ``None``: any.
        output_name: name of the output to read; ``None``: all of them.

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
        self.input_names = list(session.inputs)
        if input_name is not None and len(self.input_names) > 1:
            names = ", ".join(self.input_names)
            raise LimbeckError(f"{name} has {len(self.input_names)} inputs ({names}): remove input_name")
        if input_name is not None:
            _resolve_port_name(name, "input", input_name, self.input_names)
        self.output_names = list(session.outputs)
        if output_name is not None:
            self.output_names = [_resolve_port_name(name, "output", output_name, self.output_names)]
        self._dtypes = {}
        for port, description in session.inputs.items():
            dtype = description.partition(" ")[0]
            if dtype not in _NUMPY_DTYPES:
                raise LimbeckError(f"{name}: the input {port} must be a number or a boolean, got {dtype}")
            self._dtypes[port] = _NUMPY_DTYPES[dtype]

    def __call__(self, *inputs: ArrayLike, **named_inputs: ArrayLike) -> dict[str, NDArray[Any]]:
        """Outputs for a batch by name, in chunks where the batch size is fixed.

        Args:
            inputs: arrays or CPU tensors ``[n, ...]`` in the order of the model's inputs.
            named_inputs: inputs by name.
        """
        given = {**dict(zip(self.input_names, inputs, strict=False)), **named_inputs}
        if len(given) != len(inputs) + len(named_inputs) or given.keys() != set(self.input_names):
            names, count = ", ".join(self.input_names), len(self.input_names)
            raise LimbeckError(
                f"{self.name} takes {count} input{'s' if count > 1 else ''} ({names}), got "
                f"{len(inputs) + len(named_inputs)}{' by name: ' + ', '.join(named_inputs) if named_inputs else ''}"
            )
        arrays = {name: np.asarray(given[name]) for name in self.input_names}
        num_samples = len(next(iter(arrays.values())))
        size = self._session.batch_size or num_samples
        starts = range(0, num_samples, size) if size != num_samples else (0,)
        try:
            chunks = ({name: array[start : start + size] for name, array in arrays.items()} for start in starts)
            outputs = [self._run(chunk, size) for chunk in chunks]
            return {
                name: np.concatenate(parts) if len(parts) > 1 else parts[0]
                for name, parts in zip(self.output_names, zip(*outputs, strict=True), strict=True)
            }
        except Exception as error:  # each runtime has its own error types
            expected = ", ".join(f"{name} must be {self._session.inputs[name]}" for name in arrays)
            got = ", ".join(f"{array.dtype} {list(array.shape)}" for array in arrays.values())
            raise LimbeckError(
                f"{self.name}: the input {expected}, got {got} ({self.runtime}: {format_root_cause(error)})"
            ) from error

    def _run(self, chunk: dict[str, NDArray[Any]], size: int) -> list[NDArray[Any]]:
        """The outputs for a chunk, padded with its last row to ``size`` rows."""
        num_samples = len(next(iter(chunk.values())))
        arrays: dict[str, NDArray[Any]] = {
            name: array.astype(self._dtypes[name], copy=False) for name, array in chunk.items()
        }
        if num_samples < size:
            arrays = {
                name: np.concatenate([array, np.repeat(array[-1:], size - num_samples, axis=0)])
                for name, array in arrays.items()
            }
        outputs = self._session.run(self.output_names, arrays)
        return outputs if num_samples == size else [output[:num_samples] for output in outputs]

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

    def run(output_names: Sequence[str], arrays: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = session.run(list(output_names), arrays)
        return outputs

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

    def run(output_names: Sequence[str], arrays: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        # Shared inputs must be contiguous; outputs are copied, since the memory is used again.
        request.infer({name: np.ascontiguousarray(array) for name, array in arrays.items()}, share_inputs=True)
        return [np.array(request.get_tensor(name).data) for name in output_names]

    inputs, outputs = (
        {port.get_any_name(): f"{port.get_element_type().get_type_name()} {port.get_partial_shape()}" for port in ports}
        for ports in (compiled.inputs, compiled.outputs)
    )
    shape = compiled.inputs[0].get_partial_shape() if compiled.inputs else []
    return _Session(inputs, outputs, shape[0].get_length() if len(shape) and shape[0].is_static else None, run)


def _resolve_port_name(model_name: str, kind: str, name: str, names: list[str]) -> str:
    if name not in names:
        raise LimbeckError(f"{model_name} has no {kind} named {name!r}; available: {suggest_names(name, names)}")
    return name
