"""Running an exported file in onnxruntime (https://onnxruntime.ai), on the CPU with one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.utils import timing

__all__ = ["BATCH_SIZE", "make_session", "measure_session_latency", "predict_onnx", "run_session"]

BATCH_SIZE = 64


def predict_onnx(path: str | Path, inputs: Tensor) -> Tensor:
    """The logits ``[n, classes]`` that an exported file gives for ``inputs`` ``[n, ...]``, on the CPU in float32.

    Raises:
        LimbeckError: the file is absent, damaged or not of limbeck's form, or the inputs do not fit it.
    """
    file = Path(path)
    if not file.is_file():
        raise LimbeckError(f"there is no ONNX file at {file}: export the student first")
    session = make_session(str(file), name=str(file))
    if not len(inputs):
        raise LimbeckError("there is nothing to run: the inputs have no row")
    return torch.cat([run_session(session, batch) for batch in torch.split(inputs.detach().cpu(), BATCH_SIZE)])


def make_session(content: bytes | str, *, name: str) -> Any:
    """An onnxruntime session on one CPU thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an exception of its own for each way to fail
        raise LimbeckError(
            f"onnxruntime cannot load {name} ({format_root_cause(error)}): the file is damaged or of another "
            "version; export again"
        ) from error
    names = [item.name for item in session.get_inputs()], [item.name for item in session.get_outputs()]
    if names != (["input"], ["logits"]):
        raise LimbeckError(
            f"{name} takes {names[0]} and gives {names[1]}, and limbeck's files take 'input' and give 'logits'"
        )
    return session


def run_session(session: Any, inputs: Tensor) -> Tensor:
    """What the session says about one batch, or one sentence on why the inputs do not fit."""
    try:
        (logits,) = session.run(["logits"], {"input": inputs.numpy()})
    except Exception as error:
        expected = session.get_inputs()[0]
        raise LimbeckError(
            f"onnxruntime refuses inputs of {inputs.dtype} {list(inputs.shape)}; the file takes {expected.type} "
            f"{expected.shape} ({format_root_cause(error)})"
        ) from error
    return torch.from_numpy(logits).float()


def measure_session_latency(session: Any, sample: Tensor) -> dict[str, Any]:
    """Latency of one call in milliseconds, in the record's form: up to 200 calls after 20 of warm-up, at most five
    seconds.
    """
    inputs = {"input": sample.numpy()}
    return {**timing.time_call(lambda: session.run(["logits"], inputs)), "batch_size": 1, "num_threads": 1}
