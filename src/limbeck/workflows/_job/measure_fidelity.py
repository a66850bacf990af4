"""How like its teacher each student of a run became, beside the same student alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.evaluation import Ear, likeness, sights
from limbeck.workflows._job.job import Job

__all__ = ["fidelities"]

_PICTURES = 1000
_BATCH = 250


def fidelities(
    job: Job, networks: Mapping[str, nn.Module], said: Mapping[str, Tensor], target: Tensor, *, teacher: str | None
) -> dict[str, Any] | None:
    """``fidelity`` of the record: every network that is no teacher beside ``teacher``, on the validation part.

    Answers are compared on the whole part, by the logits that were ``said`` there, and layers on at most 1000 pictures
    at even distances in it, so that a part in the order of its classes has all of them there.
    """
    students = [name for name in networks if name not in job.recipe.teachers and name not in job.recipe.assistants]
    if teacher is None or not students:
        return None
    layers = {name: _layers(job, networks[name]) for name in (teacher, *students)}
    found = {
        name: {
            **likeness(said[name], said[teacher], target, classes=job.data.classes),
            "cka": sights(layers[name], layers[teacher]),
        }
        for name in students
    }
    return {"on": "validation", "teacher": teacher, "students": found}


def _layers(job: Job, network: nn.Module) -> dict[str, Tensor]:
    """The features in the layers of ``network``, by place; zeros for a sample that a teacher leaves unanswered."""
    batches = _pictures(job)
    first = next(batches)
    ear = Ear(network, first, job.task, samples=_PICTURES)
    for batch in (first, *batches):
        ear.hear(batch)
    if getattr(network, "partial", False):
        return {place: torch.nan_to_num(features, nan=0.0) for place, features in ear.layers.items()}
    return ear.layers


def _pictures(job: Job) -> Iterator[dict[str, Tensor]]:
    part = job.data.validation
    many = min(len(part), _PICTURES)
    which = torch.arange(many) * len(part) // many
    for some in torch.split(which, _BATCH):
        yield {"input": job.data.normalization.apply(part.read(some)), "target": part.target[some]}
