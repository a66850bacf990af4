"""Any ONNX file (https://onnx.ai) as a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor

from limbeck.core.errors import LimbeckError, nearest
from limbeck.data import Normalization
from limbeck.teachers.backends.runtime_session import Runtime, Session
from limbeck.teachers.external.external_teacher import Foreign, Returns, Sees
from limbeck.utils.io import digest

__all__ = ["onnx"]

# As onnxruntime and OpenVINO call them.
_TYPES = {
    "tensor(float)": np.float32, "f32": np.float32, "tensor(float16)": np.float16, "f16": np.float16,
    "tensor(double)": np.float64, "f64": np.float64,
}  # fmt: skip


def onnx(
    path: Path, *, runtime: Runtime = "onnxruntime", input: str | None = None, output: str | None = None,
    returns: Returns = "logits", sees: Sees = "normalised", normalization: Normalization | None = None,
    classes: int | None = None,
) -> Foreign:  # fmt: skip
    """A teacher that answers as an ONNX file does, on the CPU in float32, with as many threads as torch has.

    Args:
        path: the ``.onnx`` file; it takes one input ``[n, ...]`` of any ``n`` and gives ``[n, classes]``.
        runtime: ``onnxruntime`` or ``openvino``.
        input: the name of its input, checked where it is given.
        output: the name of the output to read, needed where there are several.
        returns: ``logits`` or ``probabilities``.
        sees: ``normalised`` inputs, or ``pixels`` in 0..1, as files take that limbeck has exported.
        normalization: of the data; needed in Python for one that sees pixels.
        classes: how many there are.

    Raises:
        LimbeckError: the file is absent or damaged, has other inputs and outputs, or the runtime is not installed.
    """
    file = Path(path)
    if not file.is_file():
        beside = sorted(other.name for other in file.parent.glob("*.onnx")) if file.parent.is_dir() else []
        raise LimbeckError(f"there is no ONNX file at {file}; beside it: {nearest(file.name, beside)}")
    session = Session(str(file), runtime=runtime, of=str(file), input=input, output=output)
    identity = " ".join([digest(file), *(digest(beside) for beside in _beside(file)), session.output])
    return Foreign(
        _Ask(session), called=str(file), identity=identity, returns=returns, sees=sees,
        normalization=normalization, classes=classes,
    )  # fmt: skip


@final
class _Ask:
    """Asks in the precision that the file takes."""

    def __init__(self, session: Session) -> None:
        self.session = session
        said = session.takes
        if said not in _TYPES:
            raise LimbeckError(
                f"{session.of} takes {session.input} as {said}, and a teacher is asked with real numbers"
            )
        self.dtype = _TYPES[said]

    def __call__(self, input: Tensor) -> Any:
        return self.session(input.numpy().astype(self.dtype, copy=False))


def _beside(file: Path) -> list[Path]:
    """The files that hold weights of this one, where they are not inside it."""
    import onnx as library

    model = library.load(str(file), load_external_data=False)
    named = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == library.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path for path in sorted(file.parent / name for name in named) if path.is_file()]
