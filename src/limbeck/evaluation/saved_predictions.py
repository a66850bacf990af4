"""Predictions of networks on a split, saved with the record for paired tests and agreement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.checks import check_logits, labeled_mask
from limbeck.utils.io import write_atomically

__all__ = ["Predictions", "load_predictions", "save_predictions"]

_FORMAT = "limbeck predictions 2"


@final
@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of several networks for the same samples.

    Attributes:
        target: ``[n]`` class indices, −100 for no label.
        predicted: by network, ``[n]`` class indices.
        confidence: by network, ``[n]`` probabilities of the predicted class.
        split: ``test`` or ``validation``.
        fingerprint: fingerprint of the samples and their order.
    """

    target: Tensor
    predicted: Mapping[str, Tensor]
    confidence: Mapping[str, Tensor]
    split: str
    fingerprint: str

    def correct(self, name: str) -> Tensor:
        """Whether network ``name`` is correct on each labeled sample, ``[labeled]`` booleans."""
        return (self.predicted[name] == self.target)[self.target >= 0]


def save_predictions(
    path: Path, logits: Mapping[str, Tensor], target: Tensor, *, split: str = "test", fingerprint: str = ""
) -> Path:
    """Saves the predictions of networks, by name, from their ``logits`` ``[n, classes]`` as one safetensors file."""
    from safetensors.torch import save_file

    tensors = {"target": target.detach().cpu().long().contiguous()}
    for name, model_logits in logits.items():
        rows = check_logits(model_logits, owner=f"{name}'s")
        labeled_mask(tensors["target"], num_rows=len(rows), num_classes=rows.shape[1])
        confidence, predicted = rows.double().softmax(dim=1).max(dim=1)
        tensors |= {f"{name}.predicted": predicted, f"{name}.confidence": confidence.float()}
    metadata = {"format": _FORMAT, "split": split, "fingerprint": fingerprint}
    return write_atomically(path, lambda partial: save_file(tensors, partial, metadata=metadata))


def load_predictions(path: Path) -> Predictions:
    """Loads a file of :func:`save_predictions`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise LimbeckError(f"{path} holds no readable predictions; run again with this version of limbeck") from error
    if metadata.get("format") != _FORMAT or "target" not in tensors:
        raise LimbeckError(f"{path} is no file of limbeck's predictions; give the file of a finished run")
    names = [key.removesuffix(".predicted") for key in tensors if key.endswith(".predicted")]
    return Predictions(
        tensors["target"],
        {name: tensors[f"{name}.predicted"] for name in names},
        {name: tensors.get(f"{name}.confidence", torch.empty(0)) for name in names},
        metadata.get("split", "test"),
        metadata.get("fingerprint", ""),
    )
