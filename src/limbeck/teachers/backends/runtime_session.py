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

from limbeck.core.errors import LimbeckError, nearest, reason

__all__ = ["RUNTIMES", "Runtime", "Session", "missing"]

Runtime = Literal["onnxruntime", "openvino"]
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")


class _Opened(NamedTuple):
    """A graph that is ready: inputs and outputs as name and ``type [shape]``, its batch where fixed, how to run it."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    batch: int | None
    run: Callable[[str, str, NDArray[Any]], NDArray[Any]]


@final
class Session:
    """Runs one ONNX graph of one input.

    Arguments:
        model: the bytes of a file, or its path.
        runtime: ``onnxruntime`` or ``openvino``.
        of: what the graph is called in an error.
        input: the name of its input, where that is to be checked.
        output: the name of the output to read, needed where there are several.

    Raises ``LimbeckError``: the runtime is not installed, cannot load the graph, or the graph has other names. It
    survives copy and pickle, and is opened again there.
    """

    def __init__(
        self, model: bytes | str, *, runtime: Runtime, of: str, input: str | None = None, output: str | None = None
    ) -> None:
        if runtime not in RUNTIMES:
            raise LimbeckError(f"{of}: {runtime!r} is no runtime; there are: {nearest(runtime, RUNTIMES)}")
        self.model, self.runtime, self.of = model, runtime, of
        self._opened = _open(model, runtime, of)
        if len(self._opened.inputs) != 1:
            raise LimbeckError(
                f"{of} takes {len(self._opened.inputs)} inputs ({', '.join(self._opened.inputs)}), and a teacher is "
                "asked with one: export it with one input"
            )
        self.input = _named(of, "input", input, list(self._opened.inputs))
        self.output = _named(of, "output", output, list(self._opened.outputs))

    @property
    def takes(self) -> str:
        """The type of the input, as the runtime calls it."""
        return self._opened.inputs[self.input].partition(" ")[0]

    def __call__(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """The answer to a batch ``[n, ...]``, or one sentence on why the graph does not take it.

        A graph that was exported for batches of one size is asked as often as it takes.
        """
        opened = self._opened
        try:
            return np.concatenate(
                [opened.run(self.input, self.output, part)[:rows] for part, rows in _parts(inputs, opened.batch)]
            )
        except Exception as error:  # each runtime has errors of its own
            raise LimbeckError(
                f"{self.of}: {self.runtime} refuses inputs of {inputs.dtype} {list(inputs.shape)}; it takes "
                f"{self.input}, {opened.inputs[self.input]} ({reason(error)})"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._opened = _open(self.model, self.runtime, self.of)


def missing(engine: str) -> str | None:
    """What to install for ``engine``; ``None`` where it is there.

    >>> missing("onnxruntime")
    """
    if engine in RUNTIMES and find_spec(engine) is None:
        return f"{engine} is not installed: pip install {'limbeck[openvino]' if engine == 'openvino' else engine}"
    return None


def _open(model: bytes | str, runtime: Runtime, of: str) -> _Opened:
    if (absent := missing(runtime)) is not None:
        raise LimbeckError(f"{of}: {absent}")
    try:
        return {"onnxruntime": _onnxruntime, "openvino": _openvino}[runtime](model)
    except Exception as error:
        raise LimbeckError(
            f"{runtime} cannot load {of} ({reason(error)}): the file is damaged, or of a version it does not know"
        ) from error


def _onnxruntime(model: bytes | str) -> _Opened:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(input: str, output: str, array: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = session.run([output], {input: array})[0]
        return found

    first = next((one.shape[0] for one in session.get_inputs() if one.shape), None)
    return _Opened(
        {one.name: f"{one.type} {one.shape}" for one in session.get_inputs()},
        {one.name: f"{one.type} {one.shape}" for one in session.get_outputs()},
        first if isinstance(first, int) else None, run,
    )  # fmt: skip


@cache
def _core() -> Any:
    """The one core of this process, kept to its end.

    Its CPU plugin gives the thread a stack for signals and frees it with the core. Freed in another order than made,
    a stack that is gone stays in place, and the next Ctrl-C would end in a segmentation fault instead of a checkpoint
    (seen with OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def _openvino(model: bytes | str) -> _Opened:
    core = _core()
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

    def described(ports: Any) -> dict[str, str]:
        return {
            one.get_any_name(): f"{one.get_element_type().get_type_name()} {one.get_partial_shape()}" for one in ports
        }

    shape = compiled.inputs[0].get_partial_shape() if compiled.inputs else []
    first = shape[0] if len(shape) else None
    batch = first.get_length() if first is not None and first.is_static else None
    return _Opened(described(compiled.inputs), described(compiled.outputs), batch, run)


def _parts(inputs: NDArray[Any], batch: int | None) -> Iterator[tuple[NDArray[Any], int]]:
    """What to ask with, and how many of its rows count: where the batch is fixed, the last one is filled up."""
    if batch is None or batch == len(inputs):
        yield np.ascontiguousarray(inputs), len(inputs)
        return
    for start in range(0, len(inputs), batch):
        part = inputs[start : start + batch]
        yield np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)]), len(part)


def _named(of: str, side: str, asked: str | None, names: list[str]) -> str:
    if asked is None and len(names) > 1:
        raise LimbeckError(f"{of} has {len(names)} {side}s ({', '.join(names)}): name the one with the logits")
    if asked is not None and asked not in names:
        raise LimbeckError(f"{of} has no {side} named {asked!r}; there are: {nearest(asked, names)}")
    return names[0] if asked is None else asked
