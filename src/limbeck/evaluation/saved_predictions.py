"""Statistics and predictions of networks on a split, saved with the record for paired tests and agreement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.checks import check_logits, labeled_mask
from limbeck.evaluation.evaluate import SplitScores
from limbeck.utils.io import require_regular_file, write_atomically

__all__ = ["Predictions", "load_predictions", "save_predictions"]

_FORMAT = "limbeck predictions 3"
_FORMAT_2 = "limbeck predictions 2"


@final
@dataclass(frozen=True, slots=True)
class Predictions:
    """Statistics of several networks for the same samples, and predicted classes where a sample has one class.

    Attributes:
        statistics: by network, ``[n, k]`` float64, what each sample adds to the primary metric; NaN without a target.
        target: ``[n]`` class indices, −100 for no label; ``None`` for a task without one class per sample.
        predicted: by network, ``[n]`` class indices, or empty.
        confidence: by network, ``[n]`` probabilities of the predicted class, or empty.
        sample_ids: ``[n]``; ``None`` in a file of an older version.
        split: ``test`` or ``validation``.
        fingerprint: fingerprint of the samples and their order.
        primary_metric: name of the metric of the statistics.
    """

    statistics: Mapping[str, Tensor]
    target: Tensor | None = None
    predicted: Mapping[str, Tensor] = field(default_factory=dict)
    confidence: Mapping[str, Tensor] = field(default_factory=dict)
    sample_ids: Tensor | None = None
    split: str = "test"
    fingerprint: str = ""
    primary_metric: str = "accuracy"


def save_predictions(
    path: Path, scores: Mapping[str, SplitScores], *, primary_metric: str, split: str = "test", fingerprint: str = ""
) -> Path:
    """Save the statistics of networks by name, and the predicted classes where there are logits, as safetensors."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, entry in scores.items():
        tensors["sample_id"] = entry.sample_ids.contiguous()
        tensors[f"{name}.statistics"] = entry.statistics.contiguous()
        if entry.logits is not None and entry.target is not None:
            rows = check_logits(entry.logits, owner=f"{name}'s")
            labeled_mask(entry.target, num_rows=len(rows), num_classes=rows.shape[1])
            confidence, predicted = rows.double().softmax(dim=1).max(dim=1)
            tensors |= {f"{name}.predicted": predicted, f"{name}.confidence": confidence.float()}
    # Every network has the same target; a teacher without outputs for a sample has none there.
    targets = [entry.target for entry in scores.values() if entry.target is not None]
    if targets:
        tensors["target"] = torch.stack(targets).amax(dim=0)
    metadata = {"format": _FORMAT, "split": split, "fingerprint": fingerprint, "primary_metric": primary_metric}
    return write_atomically(path, lambda partial: save_file(tensors, partial, metadata=metadata))


def load_predictions(path: Path) -> Predictions:
    """Load a file of :func:`save_predictions`, or one of version 2, whose statistics are correct or not."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(require_regular_file(path), framework="pt") as file:
            metadata, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise LimbeckError(f"{path} holds no readable predictions; run again with this version of limbeck") from error
    if metadata.get("format") not in (_FORMAT, _FORMAT_2):
        raise LimbeckError(f"{path} is no file of limbeck's predictions; give the file of a finished run")
    fields = {
        kind: {key.removesuffix(f".{kind}"): value for key, value in tensors.items() if key.endswith(f".{kind}")}
        for kind in ("statistics", "predicted", "confidence")
    }
    target = tensors.get("target")
    _check_tensors(path, tensors)
    if metadata["format"] == _FORMAT_2:
        if target is None:
            raise LimbeckError(f"{path} is no file of limbeck's predictions; give the file of a finished run")
        fields["statistics"] = {
            name: (predicted == target).double().masked_fill(target < 0, torch.nan)[:, None]
            for name, predicted in fields["predicted"].items()
        }
    return Predictions(
        **fields,
        target=target,
        sample_ids=tensors.get("sample_id"),
        split=metadata.get("split", "test"),
        fingerprint=metadata.get("fingerprint", ""),
        primary_metric=metadata.get("primary_metric", "accuracy"),
    )


def _check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other types or shapes than :class:`Predictions` states."""
    target = tensors.get("target")
    num_rows = {False: len(target)} if target is not None and target.ndim else {}
    for name, tensor in tensors.items():
        kind = name.rpartition(".")[2]
        is_float, ndim = kind in ("statistics", "confidence"), 2 if kind == "statistics" else 1
        is_right_type = tensor.is_floating_point() if is_float else tensor.dtype == torch.int64
        # Of a task with several classes in a sample, targets and predictions have other rows than statistics.
        length = num_rows.setdefault(kind in ("statistics", "sample_id"), len(tensor) if tensor.ndim else 0)
        if not is_right_type or tensor.ndim != ndim or len(tensor) != length:
            rows = f"[{length}, k] floats" if ndim == 2 else f"[{length}] {'floats' if is_float else 'int64'}"
            raise LimbeckError(
                f"{name} of {path} must be {rows}, got {str(tensor.dtype).removeprefix('torch.')} "
                f"{list(tensor.shape)}: put a copy back, or run again"
            )
