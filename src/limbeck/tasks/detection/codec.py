"""What a cache stores of a detector: every row, or those with the highest scores."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs

__all__ = ["decode_detector_outputs", "encode_detector_outputs", "foreground_logits"]

_BY_ROW = ("boxes", "box_deltas", "centerness_logits", "box_logits")
_CONSTANT = ("anchors", "level")


def encode_detector_outputs(
    outputs: Outputs, batch_size: int, *, classes: int, num_rows: int | None
) -> dict[str, Tensor]:
    """Tensors ``[batch, ...]`` of all rows, or of the ``num_rows`` rows of each image with the highest scores.

    Of the other rows the mean of the logits is stored.
    """
    logits = _by_image(outputs.require_logits(), batch_size)
    by_row = {name: _by_image(tensor, batch_size) for name, tensor in outputs.by_row.items()}
    tensors = {name: by_row[name] for name in _BY_ROW if name in by_row}
    if num_rows is None or num_rows >= logits.shape[1]:
        return {"logits": logits, **tensors, **{name: by_row[name].float() for name in _CONSTANT}}
    rows = foreground_logits(logits, classes).topk(num_rows, dim=1).indices.sort(dim=1).values
    others = logits.sum(dim=1) - _select(logits, rows).sum(dim=1)
    return {
        "logits": _select(logits, rows), **{name: _select(tensor, rows) for name, tensor in tensors.items()},
        "row": rows, "other_logits": others / (logits.shape[1] - num_rows),
        "num_rows": torch.full((batch_size,), logits.shape[1], device=logits.device),
    }  # fmt: skip


def decode_detector_outputs(stored: Mapping[str, Tensor]) -> Outputs:
    """The outputs again. Where only some rows were stored, ``by_row["is_cached"]`` says which.

    The other rows have the mean of their logits, and zeros for boxes; there are no anchors and levels.
    """
    batch_size = len(stored["logits"])
    if "row" not in stored:
        by_row = {name: tensor for name, tensor in stored.items() if name != "logits"}
        by_row["level"] = by_row["level"].round().long()
        return _to_outputs(stored["logits"], by_row)
    rows, num_rows = stored["row"], int(stored["num_rows"].max()) if batch_size else 0
    logits = stored["other_logits"][:, None].repeat(1, num_rows, 1)
    logits = logits.scatter(1, _expand(rows, stored["logits"]), stored["logits"])
    by_row = {name: _spread(stored[name], rows, num_rows) for name in _BY_ROW if name in stored}
    return _to_outputs(logits, by_row | {"is_cached": _spread(torch.ones_like(rows), rows, num_rows).bool()})


def foreground_logits(logits: Tensor, classes: int) -> Tensor:
    """The largest logit of a class by row, ``[..., rows]``; with a background (a column more) relative to its logit."""
    if logits.shape[-1] == classes + 1:
        return logits[..., 1:].amax(dim=-1) - logits[..., 0]
    if logits.shape[-1] not in (1, classes):
        raise LimbeckError(f"logits must be of {classes} classes, got {logits.shape[-1]}: set the task's classes")
    return logits.amax(dim=-1)


def _to_outputs(logits: Tensor, by_row: Mapping[str, Tensor]) -> Outputs:
    batch_size, num_rows = logits.shape[:2]
    samples = torch.arange(batch_size, device=logits.device).repeat_interleave(num_rows)
    flat = {name: tensor.flatten(0, 1) for name, tensor in by_row.items()}
    return Outputs(logits=logits.flatten(0, 1), by_row=flat, row_to_sample=samples)


def _by_image(tensor: Tensor, batch_size: int) -> Tensor:
    return tensor.reshape(batch_size, len(tensor) // max(batch_size, 1), *tensor.shape[1:])


def _select(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor.gather(1, _expand(rows, tensor))


def _spread(tensor: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    zeros = tensor.new_zeros(len(tensor), num_rows, *tensor.shape[2:])
    return zeros.scatter(1, _expand(rows, tensor), tensor)


def _expand(rows: Tensor, tensor: Tensor) -> Tensor:
    return rows.reshape(*rows.shape, *[1] * (tensor.ndim - 2)).expand(-1, -1, *tensor.shape[2:])
