"""ONNX files (https://onnx.ai) as teachers."""

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

# Names of onnxruntime and of OpenVINO.
_NUMPY_DTYPES = {
    "tensor(float)": np.float32, "f32": np.float32, "tensor(float16)": np.float16, "f16": np.float16,
    "tensor(double)": np.float64, "f64": np.float64,
}  # fmt: skip


def onnx(
    path: Path, *, runtime: Runtime = "onnxruntime", input_name: str | None = None, output_name: str | None = None,
    output_type: OutputType = "logits", input_type: InputType = "normalized",
    normalization: Normalization | None = None,
    classes: int | None = None,
) -> ExternalTeacher:  # fmt: skip
    """A teacher from an ONNX file, on the CPU in float32 with the threads of torch.

    Args:
        path: the ``.onnx`` file, which maps one input ``[n, ...]`` to ``[n, classes]``.
        runtime: ``onnxruntime`` or ``openvino``.
        input_name: expected name of the input.
        output_name: name of the output to read, needed where there are several.
        output_type: ``logits`` or ``probabilities``.
        input_type: ``normalized`` inputs, or ``pixels`` in 0..1, as files exported by limbeck take.
        normalization: normalization of the data, needed for ``pixels``; a recipe sets it.
        classes: expected number of classes.

    Raises:
        LimbeckError: the file is missing or damaged, has other inputs or outputs, or the runtime is not installed.
    """
    file = Path(path)
    if not file.is_file():
        siblings = sorted(sibling.name for sibling in file.parent.glob("*.onnx"))
        raise LimbeckError(f"no ONNX file {file}; in the same folder: {suggest_names(file.name, siblings)}")
    session = RuntimeSession(str(file), runtime=runtime, name=str(file), input_name=input_name, output_name=output_name)
    fingerprint = " ".join([digest(file), *map(digest, _external_data_files(file)), session.output_name])
    return ExternalTeacher(
        _ONNXPredictor(session), name=str(file), fingerprint=fingerprint, output_type=output_type,
        input_type=input_type,
        normalization=normalization, classes=classes,
    )  # fmt: skip


@final
class _ONNXPredictor:
    """Runs a session in the dtype of its input."""

    def __init__(self, session: RuntimeSession) -> None:
        if session.input_dtype not in _NUMPY_DTYPES:
            raise LimbeckError(
                f"{session.name}: the input {session.input_name} must be floating point, got {session.input_dtype}"
            )
        self.session, self.dtype = session, _NUMPY_DTYPES[session.input_dtype]

    def __call__(self, input: Tensor) -> Any:
        return self.session(input.numpy().astype(self.dtype, copy=False))


def _external_data_files(file: Path) -> list[Path]:
    """Files with weights that are not in ``file`` itself."""
    import onnx as library

    tensors = library.load(str(file), load_external_data=False).graph.initializer
    entries = [e for t in tensors if t.data_location == library.TensorProto.EXTERNAL for e in t.external_data]
    paths = sorted({file.parent / entry.value for entry in entries if entry.key == "location"})
    return [path for path in paths if path.is_file()]
