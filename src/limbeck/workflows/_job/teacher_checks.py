"""The teachers of a job compared with each other, and the rules for them applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from torch import nn

from limbeck import evaluation
from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.evaluation import SplitScores
from limbeck.recipe import Recipe
from limbeck.teachers import TeacherSimilarity, TeacherStats, teacher_warnings
from limbeck.teachers.external.external_teacher import missing_rows
from limbeck.workflows._job.measure import record_layers
from limbeck.workflows._job.run_context import RunContext

_MAX_FEATURE_SAMPLES = 10_000


def collect_teacher_warnings(
    job: RunContext, networks: Mapping[str, nn.Module], models: Mapping[str, Any], scores: Mapping[str, SplitScores], *,
    with_assistants: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """Warnings about the teachers of a run, from the validation split.

    Args:
        job: the run.
        networks: by name, the teachers among them.
        models: ``models`` of the record, by the same names.
        scores: on the validation split, by the same names.
        with_assistants: teachers whose gap to the student has a remedy, see :func:`exempt_from_gap_warning`.
    """
    teachers = [name for name, model in models.items() if model["role"] == Role.TEACHER]
    if not teachers:
        return []
    metric = job.task.primary_metric.name
    pairs = compare_teachers(job, {name: networks[name] for name in teachers}, scores)[0] if len(teachers) > 1 else []
    student = models.get(Role.BASELINE) or {**models[Role.DISTILLED], "validation": {"metrics": {}}}
    return teacher_warnings(
        {name: to_teacher_stats(models[name], metric) for name in teachers},
        to_teacher_stats(student, metric),
        metric=job.task.primary_metric,
        similarities=to_teacher_similarities(pairs),
        with_assistants=with_assistants,
    )


def compare_teachers(
    job: RunContext, networks: Mapping[str, nn.Module], scores: Mapping[str, SplitScores]
) -> tuple[list[dict[str, Any]], dict[str, str | None]]:
    """The similarity of every pair of ``networks``, and the layer of each whose features are compared.

    Of networks with logits by sample as :func:`limbeck.evaluation.pairwise_similarity`. Of others ``disagreement`` and
    ``double_fault`` are ``None``, ``error_correlation`` is that of the metric by sample, and the features are those of
    the last layer with parameters.
    """
    if all(scores[name].logits is not None for name in networks):
        outputs = {name: _collect_outputs(job, network, name) for name, network in networks.items()}
        return evaluation.pairwise_similarity(outputs), {name: entry.layer for name, entry in outputs.items()}
    features = {name: list(record_layers(job, network).items())[-1:] for name, network in networks.items()}
    pairs = []
    for first, second in combinations(networks, 2):
        statistics = (scores[name].statistics for name in (first, second))
        tensors = [tensor for name in (first, second) for _, tensor in features[name]]
        has_cka = len(tensors) == 2 and len(tensors[0]) >= evaluation.MIN_CKA_SAMPLES
        pairs.append(
            {
                "first": first, "second": second, "disagreement": None,
                "error_correlation": evaluation.sample_correlation(job.task, *statistics), "double_fault": None,
                "cka": evaluation.unbiased_cka(*tensors) if has_cka else None, "cka_input": "features",
            }
        )  # fmt: skip
    return pairs, {name: next((layer for layer, _ in items), None) for name, items in features.items()}


def to_teacher_stats(model: Mapping[str, Any], metric: str) -> TeacherStats:
    """The values that the rules for teachers need, from a model of the record with the primary metric ``metric``."""
    metrics = model["validation"]["metrics"]
    return TeacherStats(
        value=metrics.get(metric),
        ece=metrics.get("ece"),
        latency_ms=model["latency_ms"]["median"],
        num_parameters=model["parameters"],
    )


def to_teacher_similarities(pairs: Sequence[Mapping[str, Any]]) -> list[TeacherSimilarity]:
    """The values that the rules for teachers need, from :func:`compare_teachers`."""
    return [
        TeacherSimilarity(
            first=pair["first"],
            second=pair["second"],
            agreement=None if pair["disagreement"] is None else 1 - pair["disagreement"],
            cka=pair["cka"],
            correlation=pair["error_correlation"],
        )
        for pair in pairs
    ]


def exempt_from_gap_warning(recipe: Recipe) -> list[str]:
    """The teachers whose gap to the student has a remedy: assistants, or early stopping."""
    if recipe.assistants:
        return list(recipe.teachers)
    return [name for name, teacher in recipe.teachers.items() if teacher.train_fraction not in (None, 1)]


def _collect_outputs(job: RunContext, network: nn.Module, name: str) -> evaluation.ModelOutputs:
    """The outputs of ``network`` on the validation split; features of at most 10,000 samples, evenly spaced.

    A sample that a teacher has no output for has logits of zero.
    """
    stride = max(1, -(-len(job.data.validation) // _MAX_FEATURE_SAMPLES))
    try:
        outputs = evaluation.collect_outputs(network, job.data.validation_batches(), job.task, every=stride)
    except LimbeckError as error:
        raise LimbeckError(f"teachers.{name}: {error}") from error
    if not getattr(network, "allow_missing", False):
        return outputs
    return replace(outputs, logits=outputs.logits.masked_fill(missing_rows(outputs.logits)[:, None], 0.0))
