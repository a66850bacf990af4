"""How like its teacher each student of a run became, beside the same student without a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.evaluation import LayerRecorder, layerwise_cka, prediction_similarity
from limbeck.workflows._job.job import Job

__all__ = ["measure_student_fidelity"]

_NUM_IMAGES = 1000
_BATCH_SIZE = 250


def measure_student_fidelity(
    job: Job, networks: Mapping[str, nn.Module], logits: Mapping[str, Tensor], target: Tensor, *, teacher: str | None
) -> dict[str, Any] | None:
    """``fidelity`` of the record: every network that is no teacher beside ``teacher``, on the validation part.

    Outputs are compared on the whole split, by ``logits``, and layers on at most 1000 images
    at even distances in it, so that a split in the order of its classes has all of them there.
    """
    students = [name for name in networks if name not in job.recipe.teachers and name not in job.recipe.assistants]
    if teacher is None or not students:
        return None
    layers = {name: _record_layers(job, networks[name]) for name in (teacher, *students)}
    similarities = {
        name: {
            **prediction_similarity(logits[name], logits[teacher], target, class_names=job.data.class_names),
            "cka": layerwise_cka(layers[name], layers[teacher]),
        }
        for name in students
    }
    return {"split": "validation", "teacher": teacher, "students": similarities}


def _record_layers(job: Job, network: nn.Module) -> dict[str, Tensor]:
    """The features in the layers of ``network``, by name; zeros for a sample that a teacher has no output for."""
    batches = _image_batches(job)
    first = next(batches)
    recorder = LayerRecorder(network, first, job.task, max_samples=_NUM_IMAGES)
    for batch in (first, *batches):
        recorder.record(batch)
    if getattr(network, "allow_missing", False):
        return {layer: torch.nan_to_num(features, nan=0.0) for layer, features in recorder.features.items()}
    return recorder.features


def _image_batches(job: Job) -> Iterator[dict[str, Tensor]]:
    split = job.data.validation
    num_images = min(len(split), _NUM_IMAGES)
    indices = torch.arange(num_images) * len(split) // num_images
    for batch_indices in torch.split(indices, _BATCH_SIZE):
        yield {"input": job.data.normalization.apply(split.read(batch_indices)), "target": split.target[batch_indices]}
