"""Metrics, cost, comparison, fidelity and teacher warnings of the networks of a run, as plain data for the record."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import evaluation
from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Task
from limbeck.core.roles import Role
from limbeck.data import DataModule, Split, iterate_batches
from limbeck.data.split import UNLABELED
from limbeck.recipe import Recipe
from limbeck.report.record import METRIC_INFO
from limbeck.report.verdict import classify_interval, format_verdict, format_vs_no_assistants
from limbeck.teachers import ExternalTeacher, TeacherSimilarity, TeacherStats, teacher_warnings
from limbeck.teachers.external.external_teacher import missing_rows
from limbeck.utils.png import encode_png
from limbeck.workflows._job.job import Job

_NUM_FIDELITY_SAMPLES = 1000
_MAX_FEATURE_SAMPLES = 10_000


def example_input(data: DataModule) -> Tensor:
    """One normalized input."""
    return data.normalization.apply(data.validation.read(torch.tensor([0])))


def evaluate_split(
    network: nn.Module, data: DataModule, task: Task, split: Split
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Metrics of ``network`` on ``split``, with its logits and the target.

    A teacher is evaluated on the samples that it has outputs for; its logits for the others are zero.
    """
    logits, target = evaluation.collect_logits(network, iterate_batches(split, data.normalization), task)
    scored_target = target
    if getattr(network, "allow_missing", False):
        missing = missing_rows(logits)
        logits, scored_target = logits.masked_fill(missing[:, None], 0.0), target.masked_fill(missing, UNLABELED)
    return (
        group_metrics(evaluation.classification_metrics(logits, scored_target, class_names=data.class_names)),
        logits,
        target,
    )


def group_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """``metrics`` of one split as the record holds them: those of ``metric_info`` in a mapping of their own."""
    grouped = {name: metrics[name] for name in METRIC_INFO if name in metrics}
    return {"metrics": grouped, **{name: value for name, value in metrics.items() if name not in grouped}}


def measure_inference_cost(network: nn.Module, data: DataModule) -> dict[str, Any]:
    """Parameters, FLOPs, size and latency of ``network``; of an external teacher, the latency."""
    sample = example_input(data)
    if isinstance(network, ExternalTeacher):
        latency = evaluation.measure_latency(lambda: network(sample))
        return {"parameters": None, "flops": None, "bytes": None, "latency_ms": latency, "warnings": []}
    return evaluation.measure_cost(network, sample)


def compare_models(
    logits: Mapping[str, Tensor], target: Tensor, models: Mapping[str, Any], teacher: str | None
) -> dict[str, Any]:
    """Verdict and agreement on the test set, from the logits of each network by name."""
    agreement, disagreements = None, []
    if teacher is not None:
        student_logits, teacher_logits = logits[Role.DISTILLED], logits[teacher]
        agreement = {"split": "test", **evaluation.prediction_agreement(student_logits, teacher_logits, target)}
        disagreements = evaluation.find_disagreements(student_logits, teacher_logits, target)
    gap = None
    if Role.BASELINE in logits and teacher is not None:
        names = (Role.BASELINE, Role.DISTILLED, teacher)
        gap = evaluation.gap_recovered(*(models[name]["test"]["metrics"]["accuracy"] for name in names))
    gain, interval = _gain_over(Role.BASELINE, logits, target)
    verdict: dict[str, Any] = {
        "outcome": classify_interval(interval), "text": format_verdict(models, gain, interval, gap),
        "gain_points": gain, "interval_points": interval, "gap_recovered": gap,
        "statistical_test": "paired bootstrap over the test samples, 95 %",
    }  # fmt: skip
    gain, interval = _gain_over(Role.NO_ASSISTANTS, logits, target)
    if gain is not None and interval is not None:
        verdict["vs_no_assistants"] = {
            "outcome": classify_interval(interval), "text": format_vs_no_assistants(gain, interval),
            "gain_points": gain, "interval_points": interval,
        }  # fmt: skip
    return {"agreement": agreement, "disagreements": disagreements, "verdict": verdict}


def _gain_over(reference: str, logits: Mapping[str, Tensor], target: Tensor) -> tuple[float | None, list[float] | None]:
    """The gain of the distilled student in points, with its interval; ``None`` without ``reference``."""
    if reference not in logits:
        return None, None
    student, baseline = (logits[name].argmax(dim=1) == target for name in (Role.DISTILLED, reference))
    gain, *interval = evaluation.paired_bootstrap(student, baseline)
    return gain, interval


def add_thumbnails(samples: list[dict[str, Any]], split: Split) -> list[dict[str, Any]]:
    """``samples`` with their images as PNG, at most 96 pixels a side."""
    images = [encode_png(split.read(torch.tensor([sample["index"]]))[0]) for sample in samples]
    return [{**sample, "png": base64.b64encode(image).decode()} for sample, image in zip(samples, images, strict=True)]


def measure_student_fidelity(
    job: Job, networks: Mapping[str, nn.Module], logits: Mapping[str, Tensor], target: Tensor, *, teacher: str | None
) -> dict[str, Any] | None:
    """``fidelity`` of the record: each student compared with ``teacher`` on the validation split.

    Outputs are compared on the whole split, by ``logits``, and layers on at most 1000 evenly spaced samples.
    """
    students = [name for name in networks if name not in job.recipe.teachers and name not in job.recipe.assistants]
    if teacher is None or not students:
        return None
    features = {name: _record_layers(job, networks[name]) for name in (teacher, *students)}
    similarities = {
        name: {
            **evaluation.prediction_similarity(logits[name], logits[teacher], target, class_names=job.data.class_names),
            "cka": evaluation.layerwise_cka(features[name], features[teacher]),
        }
        for name in students
    }
    return {"split": "validation", "teacher": teacher, "students": similarities}


def _record_layers(job: Job, network: nn.Module) -> dict[str, Tensor]:
    """The features of ``network`` by layer; zeros for a sample that a teacher has no output for."""
    split = job.data.validation
    num_samples = min(len(split), _NUM_FIDELITY_SAMPLES)
    recorder = None
    for indices in torch.split(torch.arange(num_samples) * len(split) // num_samples, 250):
        batch = {"input": job.data.normalization.apply(split.read(indices)), "target": split.target[indices]}
        recorder = recorder or evaluation.LayerRecorder(network, batch, job.task, max_samples=_NUM_FIDELITY_SAMPLES)
        recorder.record(batch)
    features = {} if recorder is None else recorder.features
    if getattr(network, "allow_missing", False):
        return {layer: torch.nan_to_num(values, nan=0.0) for layer, values in features.items()}
    return features


def collect_teacher_warnings(job: Job, networks: Mapping[str, nn.Module], models: Mapping[str, Any]) -> list[str]:
    """Warnings about the teachers of ``job``, from the validation split.

    Args:
        job: the recipe with its data.
        networks: by name, the teachers among them.
        models: ``models`` of the record, by the same names.
    """
    teachers = list(job.recipe.teachers)
    if not teachers:
        return []
    outputs = {name: collect_validation_outputs(job, networks[name]) for name in teachers} if len(teachers) > 1 else {}
    student = models.get(Role.BASELINE) or {**models[Role.DISTILLED], "validation": {"metrics": {}}}
    return teacher_warnings(
        {name: to_teacher_stats(models[name]) for name in teachers},
        to_teacher_stats(student),
        similarities=to_teacher_similarities(evaluation.pairwise_similarity(outputs)),
        with_assistants=exempt_from_gap_warning(job.recipe),
    )


def to_teacher_stats(model: Mapping[str, Any]) -> TeacherStats:
    """The values that the rules for teachers need, from a model of the record."""
    metrics = model["validation"]["metrics"]
    return TeacherStats(
        accuracy=metrics.get("accuracy"),
        ece=metrics.get("ece"),
        latency_ms=model["latency_ms"]["median"],
        num_parameters=model["parameters"],
    )


def to_teacher_similarities(pairs: Sequence[Mapping[str, Any]]) -> list[TeacherSimilarity]:
    """The values that the rules for teachers need, from :func:`limbeck.evaluation.pairwise_similarity`."""
    return [
        TeacherSimilarity(
            first=pair["first"], second=pair["second"], agreement=1 - pair["disagreement"], cka=pair["cka"]
        )
        for pair in pairs
    ]


def collect_validation_outputs(job: Job, network: nn.Module, *, config_path: str = "") -> evaluation.ModelOutputs:
    """The outputs of ``network`` on the validation split; features of at most 10,000 samples, evenly spaced.

    A sample that a teacher has no output for has logits of zero.
    """
    stride = max(1, -(-len(job.data.validation) // _MAX_FEATURE_SAMPLES))
    try:
        outputs = evaluation.collect_outputs(network, job.data.validation_batches(), job.task, every=stride)
    except LimbeckError as error:
        raise LimbeckError(f"{config_path}: {error}" if config_path else str(error)) from error
    if not getattr(network, "allow_missing", False):
        return outputs
    return replace(outputs, logits=outputs.logits.masked_fill(missing_rows(outputs.logits)[:, None], 0.0))


def exempt_from_gap_warning(recipe: Recipe) -> list[str]:
    """The teachers whose gap to the student has a remedy: assistants, or early stopping."""
    if recipe.assistants:
        return list(recipe.teachers)
    return [name for name, teacher in recipe.teachers.items() if teacher.train_fraction not in (None, 1)]
