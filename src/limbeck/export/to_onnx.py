"""ONNX export, and the check that the file says what the network says.

A file is written only after onnxruntime (https://onnxruntime.ai) has answered like torch, at several batch sizes:
tracing freezes what a network decides while it runs, and without the check nobody sees it before the device does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, reason
from limbeck.export.onnx_runner import BATCH, answer, session_of, timed
from limbeck.features import bare
from limbeck.models.onnx_graph import OPSET, onnx_bytes
from limbeck.utils.io import write_atomically

__all__ = ["to_onnx"]


def to_onnx(
    model: nn.Module, example: Tensor, path: str | Path, *, examples: Tensor, tolerance: float = 1e-4
) -> dict[str, Any]:
    """Write ``model`` to one ONNX file of any batch size, once onnxruntime gives the same logits as torch.

    The file has one ``input`` and one output ``logits``, and its weights inside. The model is copied (to the CPU, in
    eval mode) and stays as it is.

    Args:
        model: takes a tensor and gives logits ``[n, classes]``: a tensor, the first of a tuple, ``.logits`` or
            ``["logits"]``.
        example: inputs ``[n, ...]`` that tell the shape and type.
        path: the ``.onnx`` file; one that stood there before stays as it was when the check fails.
        examples: validation inputs ``[n, ...]`` to compare on, first one alone, then in batches.
        tolerance: the largest allowed difference of a logit, for logits up to 1; larger logits may differ in
            proportion to the largest.

    Returns:
        What the record holds: ``file`` (its name), ``bytes``, ``opset``, ``max_abs_difference`` (of logits),
        ``label_agreement`` (a fraction), ``examples``, ``tolerance``, and ``latency_ms`` of onnxruntime on the CPU, for
        a batch of 1 with one thread.

    Raises:
        LimbeckError: the network cannot be exported, the file would pass 2 GB, a logit differs by more than the
            tolerance, or a label differs where torch is not torn between two classes. No file appears then.
    """
    target = Path(path)
    _require(target, example, examples, tolerance)
    network = _Logits(copy.deepcopy(bare(model)).cpu()).eval()
    content = _exported(network, example.detach().cpu())
    session = session_of(content, of=str(target))
    difference, agreement = _compared(network, session, examples.detach().cpu(), tolerance=tolerance, of=target.name)
    took = timed(session, examples[:1].detach().cpu())
    write_atomically(target, lambda partial: partial.write_bytes(content))
    return {
        "file": target.name,
        "bytes": len(content),
        "opset": OPSET,
        "max_abs_difference": difference,
        "label_agreement": agreement,
        "examples": len(examples),
        "tolerance": tolerance,
        "latency_ms": took,
    }


@final
class _Logits(nn.Module):
    """A network whose answer is the logits, as one tensor, whatever form it gave them in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input: Tensor) -> Tensor:
        """The logits, ``[batch, classes]``; the name of the argument becomes that of the ONNX input."""
        said = self.network(input)
        if isinstance(said, Mapping):
            said = said.get("logits")
        elif isinstance(said, tuple | list) and not hasattr(said, "logits"):
            said = said[0] if said else None
        found = said if isinstance(said, Tensor) else getattr(said, "logits", None)
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise LimbeckError(
                f"{type(self.network).__name__} gave no logits [batch, classes]: export takes a network that gives "
                'them as a tensor, the first of a tuple, .logits or ["logits"]'
            )
        return found


def _require(path: Path, example: Tensor, examples: Tensor, tolerance: float) -> None:
    if path.suffix != ".onnx":
        raise LimbeckError(f"ONNX is written to a file that ends in .onnx, not to {path.name!r}")
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise LimbeckError(f"tolerance is a number above 0, such as 1e-4, not {tolerance}")
    if not len(example) or not len(examples):
        raise LimbeckError("export takes at least one example, and at least one validation input to compare on")
    if example.shape[1:] != examples.shape[1:] or example.dtype != examples.dtype:
        raise LimbeckError(
            f"the example is {example.dtype} of shape {list(example.shape[1:])}, and the inputs to compare on are "
            f"{examples.dtype} of {list(examples.shape[1:])}: give both from the same data"
        )


def _exported(network: _Logits, example: Tensor) -> bytes:
    """The ONNX file's bytes."""
    _require_runs(network, example[:1])
    return onnx_bytes(network, example, of=type(network.network).__name__)


def _require_runs(network: _Logits, one: Tensor) -> None:
    """Tell a mistake in the network as it is, and not as the exporter would."""
    try:
        with torch.no_grad():
            network(one)
    except LimbeckError:
        raise
    except Exception as error:
        raise LimbeckError(
            f"{type(network.network).__name__} does not take the example, {one.dtype} {list(one.shape)} "
            f"({reason(error)}): give an input as in training"
        ) from error


def _compared(network: nn.Module, session: Any, examples: Tensor, *, tolerance: float, of: str) -> tuple[float, float]:
    """The largest difference of a logit and the share of equal labels, both within what is allowed, or an error."""
    # One alone, then the rest: a file that only works for one batch size does not pass.
    parts = [examples[:1], *torch.split(examples[1:] if len(examples) > 1 else examples[[0, 0]], BATCH)]
    with torch.no_grad():
        expected = torch.cat([network(part).float() for part in parts])
    found = torch.cat([answer(session, part) for part in parts])
    if not bool(expected.isfinite().all()):
        raise LimbeckError("the network's own logits are not finite, so there is nothing to export: train it again")
    if found.shape != expected.shape:
        raise LimbeckError(f"{of} is not written: onnxruntime gives {list(found.shape)}, torch {list(expected.shape)}")
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    difference = float((found - expected).abs().max())
    top = expected.topk(min(2, expected.shape[1]), dim=1).values
    differ = found.argmax(dim=1) != expected.argmax(dim=1)
    wrong = int((differ & (top[:, 0] - top[:, -1] > allowed)).sum())
    if not difference <= allowed or wrong:  # so written, NaN fails too
        raise LimbeckError(
            f"{of} is not written, for onnxruntime does not answer like torch: a logit differs by {difference:.3g} "
            f"({allowed:.3g} is allowed), and {int(differ.sum())} of {len(expected)} labels differ, {wrong} of them "
            "where torch is sure: look for randomness, or for a decision on values, in the network's forward"
        )
    return difference, 1.0 - float(differ.double().mean())
