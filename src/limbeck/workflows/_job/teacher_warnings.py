"""The rules for teachers, brought to a recipe and to what was measured of its networks, for every command alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.evaluation import ModelOutputs, collect_outputs, pairwise_similarity
from limbeck.recipe import Recipe
from limbeck.teachers import TeacherSimilarity, TeacherStats, teacher_warnings
from limbeck.teachers.external.external_teacher import missing_rows
from limbeck.workflows._job.job import Job

__all__ = [
    "collect_teacher_warnings",
    "collect_validation_outputs",
    "exempt_from_gap_warning",
    "to_teacher_similarities",
    "to_teacher_stats",
]

_MAX_FEATURE_SAMPLES = 10_000


def collect_teacher_warnings(job: Job, networks: Mapping[str, nn.Module], models: Mapping[str, Any]) -> list[str]:
    """What a user should know of the teachers before believing the figures; by validation, never by the test part.

    Arguments:
        job: whose teachers they are.
        networks: by name, the teachers among them.
        models: ``models`` of the record, by the same names.
    """
    teachers = list(job.recipe.teachers)
    if not teachers:
        return []
    outputs = {name: collect_validation_outputs(job, networks[name]) for name in teachers} if len(teachers) > 1 else {}
    student = (
        to_teacher_stats(models[Role.BASELINE])
        if Role.BASELINE in models
        else to_teacher_stats({**models[Role.DISTILLED], "validation": {"metrics": {}}})
    )
    return teacher_warnings(
        {name: to_teacher_stats(models[name]) for name in teachers}, student,
        similarities=to_teacher_similarities(pairwise_similarity(outputs)),
        with_assistants=exempt_from_gap_warning(job.recipe),
    )  # fmt: skip


def to_teacher_stats(model: Mapping[str, Any]) -> TeacherStats:
    """What the rules look at, out of one of the record's ``models``."""
    return TeacherStats(
        accuracy=model["validation"]["metrics"].get("accuracy"), ece=model["validation"]["metrics"].get("ece"),
        latency_ms=model["latency_ms"]["median"], num_parameters=model["parameters"],
    )  # fmt: skip


def to_teacher_similarities(pair_metrics: Sequence[Mapping[str, Any]]) -> list[TeacherSimilarity]:
    """What the rules look at, out of what :func:`limbeck.evaluation.pairwise_similarity` gives."""
    return [
        TeacherSimilarity(
            first=pair["first"], second=pair["second"], agreement=1 - pair["disagreement"], cka=pair["cka"]
        )
        for pair in pair_metrics
    ]


def collect_validation_outputs(job: Job, network: nn.Module, *, config_path: str = "") -> ModelOutputs:
    """The outputs of ``network`` on the validation split; features of at most 10,000 samples, evenly spread.

    A sample that a teacher has no output for has logits of zero: beside others it knows nothing there.
    """
    stride = -(-len(job.data.validation) // _MAX_FEATURE_SAMPLES)
    try:
        outputs = collect_outputs(network, job.data.validation_batches(), job.task, every=max(1, stride))
    except LimbeckError as error:
        raise LimbeckError(f"{config_path}: {error}" if config_path else str(error)) from error
    if not getattr(network, "allow_missing", False):
        return outputs
    return replace(outputs, logits=outputs.logits.masked_fill(missing_rows(outputs.logits)[:, None], 0.0))


def exempt_from_gap_warning(recipe: Recipe) -> list[str]:
    """The teachers who need no word on a large gap: assistants stand between, or they are stopped early."""
    if getattr(recipe, "assistants", None):
        return list(recipe.teachers)
    return [
        name for name, teacher in recipe.teachers.items() if getattr(teacher, "train_fraction", None) not in (None, 1)
    ]
