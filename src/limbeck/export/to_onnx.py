"""ONNX export, and the check that the file says what the network says.

A file is written only after onnxruntime (https://onnxruntime.ai) has answered like torch, at several batch sizes:
tracing freezes data-dependent control flow, and only the check shows it before deployment.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.export.onnx_runner import BATCH_SIZE, make_session, measure_session_latency, run_session
from limbeck.features import unwrap_model
from limbeck.models.onnx_graph import OPSET, export_onnx_bytes
from limbeck.utils.io import write_atomically

__all__ = ["to_onnx"]


def to_onnx(
    model: nn.Module, example_inputs: Tensor, path: str | Path, *, check_inputs: Tensor, tolerance: float = 1e-4
) -> dict[str, Any]:
    """Write ``model`` to one ONNX file of any batch size, once onnxruntime gives the same logits as torch.

    The file has one ``input`` and one output ``logits``, and its weights inside. The model is copied (to the CPU, in
    eval mode) and stays as it is.

    Args:
        model: takes a tensor and gives logits ``[n, classes]``: a tensor, the first of a tuple, ``.logits`` or
            ``["logits"]``.
        example_inputs: inputs ``[n, ...]`` that define shape and dtype.
        path: the ``.onnx`` file; one that stood there before stays as it was when the check fails.
        check_inputs: validation inputs ``[n, ...]`` for the parity check, first one sample, then batches.
        tolerance: the largest allowed difference of a logit, for logits up to 1; larger logits may differ in
            proportion to the largest.

    Returns:
        What the record holds: ``file`` (its name), ``bytes``, ``opset``, ``max_abs_difference`` (of logits),
        ``label_agreement`` (a fraction), ``num_samples``, ``tolerance``, and ``latency_ms`` of onnxruntime on the
        CPU, for a batch of 1 with one thread.

    Raises:
        LimbeckError: the network cannot be exported, the file would pass 2 GB, a logit differs by more than the
            tolerance, or a label differs where torch is not torn between two classes. No file appears then.
    """
    output_path = Path(path)
    _validate_arguments(output_path, example_inputs, check_inputs, tolerance)
    network = _LogitsWrapper(copy.deepcopy(unwrap_model(model)).cpu()).eval()
    content = _export_bytes(network, example_inputs.detach().cpu())
    session = make_session(content, name=str(output_path))
    difference, agreement = _check_parity(
        network, session, check_inputs.detach().cpu(), tolerance=tolerance, name=output_path.name
    )
    latency = measure_session_latency(session, check_inputs[:1].detach().cpu())
    write_atomically(output_path, lambda partial: partial.write_bytes(content))
    return {
        "file": output_path.name,
        "bytes": len(content),
        "opset": OPSET,
        "max_abs_difference": difference,
        "label_agreement": agreement,
        "num_samples": len(check_inputs),
        "tolerance": tolerance,
        "latency_ms": latency,
    }


@final
class _LogitsWrapper(nn.Module):
    """Wraps a network so that it returns its logits as one tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``; the name of the argument becomes that of the ONNX input."""
        outputs = self.network(input)
        if isinstance(outputs, Mapping):
            outputs = outputs.get("logits")
        elif isinstance(outputs, tuple | list) and not hasattr(outputs, "logits"):
            outputs = outputs[0] if outputs else None
        logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise LimbeckError(
                f"{type(self.network).__name__} gave no logits [batch, classes]: export takes a network that gives "
                'them as a tensor, the first of a tuple, .logits or ["logits"]'
            )
        return logits


def _validate_arguments(path: Path, example_inputs: Tensor, check_inputs: Tensor, tolerance: float) -> None:
    if path.suffix != ".onnx":
        raise LimbeckError(f"ONNX is written to a file that ends in .onnx, not to {path.name!r}")
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise LimbeckError(f"tolerance is a number above 0, such as 1e-4, not {tolerance}")
    if not len(example_inputs) or not len(check_inputs):
        raise LimbeckError("export takes at least one example, and at least one validation input to compare on")
    if example_inputs.shape[1:] != check_inputs.shape[1:] or example_inputs.dtype != check_inputs.dtype:
        raise LimbeckError(
            f"the example is {example_inputs.dtype} of shape {list(example_inputs.shape[1:])}, and the inputs to "
            "compare on are "
            f"{check_inputs.dtype} of {list(check_inputs.shape[1:])}: give both from the same data"
        )


def _export_bytes(network: _LogitsWrapper, example_inputs: Tensor) -> bytes:
    """The ONNX file's bytes."""
    _require_runs(network, example_inputs[:1])
    return export_onnx_bytes(network, example_inputs, name=type(network.network).__name__)


def _require_runs(network: _LogitsWrapper, sample: Tensor) -> None:
    """Report an error of the network itself instead of the exporter's."""
    try:
        with torch.no_grad():
            network(sample)
    except LimbeckError:
        raise
    except Exception as error:
        raise LimbeckError(
            f"{type(network.network).__name__} does not take the example, {sample.dtype} {list(sample.shape)} "
            f"({format_root_cause(error)}): give an input as in training"
        ) from error


def _check_parity(
    network: nn.Module, session: Any, check_inputs: Tensor, *, tolerance: float, name: str
) -> tuple[float, float]:
    """The largest difference of a logit and the share of equal labels, both within what is allowed, or an error."""
    # One sample, then batches: a file that works for one batch size only does not pass.
    batches = [
        check_inputs[:1],
        *torch.split(check_inputs[1:] if len(check_inputs) > 1 else check_inputs[[0, 0]], BATCH_SIZE),
    ]
    with torch.no_grad():
        expected = torch.cat([network(batch).float() for batch in batches])
    logits = torch.cat([run_session(session, batch) for batch in batches])
    if not bool(expected.isfinite().all()):
        raise LimbeckError("the network's own logits are not finite, so there is nothing to export: train it again")
    if logits.shape != expected.shape:
        raise LimbeckError(
            f"{name} is not written: onnxruntime gives {list(logits.shape)}, torch {list(expected.shape)}"
        )
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    difference = float((logits - expected).abs().max())
    top_two = expected.topk(min(2, expected.shape[1]), dim=1).values
    label_differs = logits.argmax(dim=1) != expected.argmax(dim=1)
    num_wrong = int((label_differs & (top_two[:, 0] - top_two[:, -1] > allowed)).sum())
    if not difference <= allowed or num_wrong:  # so written, NaN fails too
        raise LimbeckError(
            f"{name} is not written, since onnxruntime does not match torch: a logit differs by {difference:.3g} "
            f"({allowed:.3g} is allowed), and {int(label_differs.sum())} of {len(expected)} labels differ, "
            f"{num_wrong} of them "
            "where torch is sure: look for randomness, or for a decision on values, in the network's forward"
        )
    return difference, 1.0 - float(label_differs.double().mean())
