"""Any ONNX file (https://onnx.ai) as a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data import Normalization
from limbeck.teachers.backends.runtime_session import Runtime, RuntimeSession
from limbeck.teachers.external.external_teacher import ExternalTeacher, InputType, OutputType
from limbeck.utils.io import digest

__all__ = ["onnx"]

# As onnxruntime and OpenVINO call them.
_NUMPY_DTYPES = {
    "tensor(float)": np.float32, "f32": np.float32, "tensor(float16)": np.float16, "f16": np.float16,
    "tensor(double)": np.float64, "f64": np.float64,
}  # fmt: skip


def onnx(
    path: Path, *, runtime: Runtime = "onnxruntime", input_name: str | None = None, output_name: str | None = None,
    output_type: OutputType = "logits", input_type: InputType = "normalized", normalization: Normalization | None = None,
    classes: int | None = None,
) -> ExternalTeacher:  # fmt: skip
    """A teacher that answers as an ONNX file does, on the CPU in float32, with as many threads as torch has.

    Args:
        path: the ``.onnx`` file; it takes one input ``[n, ...]`` of any ``n`` and gives ``[n, classes]``.
        runtime: ``onnxruntime`` or ``openvino``.
        input_name: the name of its input, checked where it is given.
        output_name: the name of the output to read, needed where there are several.
        output_type: ``logits`` or ``probabilities``.
        input_type: ``normalized`` inputs, or ``pixels`` in 0..1, as files take that limbeck has exported.
        normalization: of the data; needed in Python for one that sees pixels.
        classes: how many there are.

    Raises:
        LimbeckError: the file is absent or damaged, has other inputs and outputs, or the runtime is not installed.
    """
    file = Path(path)
    if not file.is_file():
        siblings = sorted(sibling.name for sibling in file.parent.glob("*.onnx")) if file.parent.is_dir() else []
        raise LimbeckError(f"there is no ONNX file at {file}; beside it: {suggest_names(file.name, siblings)}")
    session = RuntimeSession(str(file), runtime=runtime, name=str(file), input_name=input_name, output_name=output_name)
    fingerprint = " ".join(
        [digest(file), *(digest(siblings) for siblings in _external_data_files(file)), session.output_name]
    )
    return ExternalTeacher(
        _ONNXPredictor(session), name=str(file), fingerprint=fingerprint, output_type=output_type, input_type=input_type,
        normalization=normalization, classes=classes,
    )  # fmt: skip


@final
class _ONNXPredictor:
    """Asks in the precision that the file takes."""

    def __init__(self, session: RuntimeSession) -> None:
        self.session = session
        input_dtype = session.input_dtype
        if input_dtype not in _NUMPY_DTYPES:
            raise LimbeckError(
                f"{session.name} takes {session.input_name} as {input_dtype}, and a teacher is asked with real numbers"
            )
        self.dtype = _NUMPY_DTYPES[input_dtype]

    def __call__(self, input: Tensor) -> Any:
        return self.session(input.numpy().astype(self.dtype, copy=False))


def _external_data_files(file: Path) -> list[Path]:
    """The files that hold weights of this one, where they are not inside it."""
    import onnx as library

    model = library.load(str(file), load_external_data=False)
    locations = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == library.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path for path in sorted(file.parent / name for name in locations) if path.is_file()]
