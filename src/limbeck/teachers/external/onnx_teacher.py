"""ONNX files (https://onnx.ai) as teachers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data.normalization import Normalization
from limbeck.teachers.backends.runtime_session import Runtime, RuntimeSession
from limbeck.teachers.external.external_teacher import ExternalTeacher, InputType, OutputType
from limbeck.utils.io import digest

__all__ = ["onnx"]


def onnx(
    path: Path, *, runtime: Runtime = "onnxruntime", input_name: str | None = None, output_name: str | None = None,
    output_type: OutputType = "logits", input_type: InputType = "normalized",
    normalization: Normalization | None = None, classes: int | None = None,
) -> ExternalTeacher:  # fmt: skip
    """A teacher from an ONNX file, on the CPU with the threads of torch.

    Args:
        path: the ``.onnx`` file. It takes the inputs that the task gives a network, in their order or by name. Its
            output is ``[n, classes]`` or what else the task takes.
        runtime: ``onnxruntime`` or ``openvino``.
        input_name: expected name of the only input.
        output_name: name of the output to read; ``None``: the only one, or all of them in a dict by name.
        output_type: ``logits`` or ``probabilities``.
        input_type: ``normalized`` inputs, or ``pixels``: those before normalization (of images in 0..1), as files
            exported by limbeck take.
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
    fingerprint = " ".join([digest(file), *map(digest, _external_data_files(file)), *session.output_names])
    return ExternalTeacher(
        _OnnxCall(session), name=str(file), fingerprint=fingerprint, output_type=output_type, input_type=input_type,
        normalization=normalization, classes=classes,
    )  # fmt: skip


@final
@dataclass(frozen=True)
class _OnnxCall:
    """A session as a function to its only output, or to a dict of all of them."""

    session: RuntimeSession

    def __call__(self, *inputs: Any, **named_inputs: Any) -> Any:
        outputs = self.session(*inputs, **named_inputs)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _external_data_files(file: Path) -> list[Path]:
    """Files with weights that are not in ``file`` itself."""
    import onnx as library

    try:
        tensors = library.load(str(file), load_external_data=False).graph.initializer
    except Exception as error:  # protobuf has its own error types
        raise LimbeckError(f"{file} is damaged or no ONNX file ({type(error).__name__}); copy it again") from error
    entries = [e for t in tensors if t.data_location == library.TensorProto.EXTERNAL for e in t.external_data]
    paths = sorted({file.parent / entry.value for entry in entries if entry.key == "location"})
    return [path for path in paths if path.is_file()]
