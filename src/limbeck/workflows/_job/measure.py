"""Metrics, cost, comparison and fidelity of the networks of a run, as plain data for the record."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import evaluation
from limbeck.core.errors import format_root_cause
from limbeck.core.roles import Role
from limbeck.core.task import DeployableTask, EvaluableTask, Example, ModelInputs, Panel
from limbeck.data import DataModule, Split, iterate_batches
from limbeck.data.module import LabelSubset
from limbeck.data.normalization import NoNormalization
from limbeck.evaluation import SplitScores, save_predictions
from limbeck.report.verdict import classify_interval, format_verdict, format_vs_no_assistants
from limbeck.teachers import ExternalTeacher
from limbeck.training import FitResult
from limbeck.utils.settings import TrainingSettings
from limbeck.workflows._job.facts import data_facts
from limbeck.workflows._job.provenance import hash_networks
from limbeck.workflows._job.run_context import RunContext

_NUM_FIDELITY_SAMPLES = 1000
_NUM_EXAMPLES = 12
_NUM_BATCH_SAMPLES = 16
_NUM_RESAMPLES = 10_000
"""The default of the bootstrap; another number is stated in the record."""


def example_input(data: DataModule) -> Tensor:
    """One normalized input."""
    return data.normalization.apply(data.validation.read(torch.tensor([0])))


def example_inputs(data: DataModule, task: EvaluableTask) -> ModelInputs:
    """How ``task`` calls a network on one validation sample."""
    if not isinstance(task, DeployableTask):
        return ModelInputs((example_input(data),))
    return task.model_inputs(next(iterate_batches(data.validation.subset(torch.tensor([0])), data.normalization)))


def evaluate_split(network: nn.Module, data: DataModule, task: EvaluableTask, split: Split) -> SplitScores:
    """The scores of ``network`` on ``split``; a teacher is evaluated on the samples that it has outputs for."""
    return score_split({"the network": network}, data, task, split)["the network"]


def score_split(
    networks: Mapping[str, nn.Module], data: DataModule, task: EvaluableTask, split: Split
) -> dict[str, SplitScores]:
    """:func:`evaluate_split` of several networks by name, with one pass over the split."""
    batches = iterate_batches(split, data.normalization)
    return evaluation.score_networks(networks, batches, task, class_names=data.class_names)


def to_split_metrics(scores: SplitScores, task: EvaluableTask) -> dict[str, Any]:
    """``scores`` as the record holds them."""
    interval, details = evaluation.metric_interval(task, scores.statistics), dict(scores.details)
    return {
        "metrics": dict(scores.metrics),
        "num_samples": scores.num_samples,
        "interval": {} if interval is None else {task.primary_metric.name: list(interval)},
        "per_class": list(scores.per_class),
        "reliability": details.pop("reliability", []),
        "details": details,
    }


def measure_models(
    job: RunContext, networks: Mapping[str, nn.Module], runs: Mapping[str, FitResult | None],
    labels: Mapping[str, tuple[str, str]], *, references: Mapping[str, nn.Module] = MappingProxyType({}),
) -> tuple[dict[str, Any], dict[str, SplitScores], list[str]]:  # fmt: skip
    """Cost and validation metrics of ``networks``.

    Args:
        job: the recipe with its data.
        networks: by name.
        runs: the training of each; ``None`` without one.
        labels: role and title of each.
        references: further networks whose scores are needed, such as the teacher of a trial.

    Returns:
        ``models`` of the record, the scores on the validation split of networks and references, and warnings.
    """
    scores = score_split({**references, **networks}, job.data, job.task, job.data.validation)
    models, warnings = dict[str, Any](), list[str]()
    costs = measure_inference_costs(job, networks)
    for name, cost in costs.items():
        run, (role, title) = runs[name], labels[name]
        warnings += [f"{name}: {text}" for text in cost.pop("warnings")]
        models[name] = {
            "role": role, "title": title, **cost, "steps": run.steps if run else None,
            "seconds": round(run.seconds, 2) if run else None,
            "validation": to_split_metrics(scores[name], job.task), "test": None,
        }  # fmt: skip
    return models, scores, warnings


def open_test_set(
    job: RunContext, networks: Mapping[str, nn.Module], record: Mapping[str, Any]
) -> tuple[Split, dict[str, SplitScores], dict[str, Any]]:
    """Open the test set, once, measure every network on it, and save the predictions.

    Args:
        job: the recipe with its data.
        networks: by name, as in ``models`` of the record, whose ``test`` is set.
        record: the record so far.

    Returns:
        The test split, the scores by name, and ``test_set`` of the record.
    """
    split = job.data.test.unlock(hash_networks(networks))
    scores = score_split(networks, job.data, job.task, split)
    for name, entry in scores.items():
        record["models"][name]["test"] = to_split_metrics(entry, job.task)
    save_predictions(
        job.run_dir / "predictions.safetensors", scores, primary_metric=job.task.primary_metric.name,
        fingerprint=job.data.test.fingerprint(),
    )  # fmt: skip
    log = job.data.test.read_log()
    return split, scores, {
        "num_reads": log["num_reads"], "opened_at": log["opened_at"], "num_samples": len(split)
    }  # fmt: skip


def measure_inference_costs(job: RunContext, networks: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
    """Parameters, FLOPs, size and latency of each network; of an external teacher, the latency.

    Networks of equal structure have one latency in the whole run; the others are measured in turns.
    """
    sample = example_inputs(job.data, job.task)
    latencies = evaluation.measure_latencies_by_structure(networks, sample, known=job.latencies)
    costs: dict[str, dict[str, Any]] = {}
    for name, network in networks.items():
        if isinstance(network, ExternalTeacher):
            costs[name] = {
                "parameters": None,
                "flops": None,
                "bytes": None,
                "latency_ms": latencies[name],
                "warnings": [],
            }
        else:
            costs[name] = evaluation.measure_cost(network, sample, latency=latencies[name])
            job.latencies[costs[name]["architecture"]] = latencies[name]
    return costs


def best_teacher(job: RunContext, models: Mapping[str, Any]) -> str | None:
    """The teacher with the best primary metric on the validation split; ``None`` without a teacher."""
    spec, teachers = job.task.primary_metric, [n for n, model in models.items() if model["role"] == Role.TEACHER]

    def rank(name: str) -> float:
        value = models[name]["validation"]["metrics"][spec.name]
        return -math.inf if value is None else spec.sign * value

    return max(teachers, key=rank, default=None)


def compare_models(
    task: EvaluableTask, scores: Mapping[str, SplitScores], models: Mapping[str, Any], teacher: str | None
) -> dict[str, Any]:
    """Verdict and agreement on the test set, from the scores of each network by name."""
    spec, agreement = task.primary_metric, None
    if teacher is not None and scores[Role.DISTILLED].logits is not None:
        student, reference = scores[Role.DISTILLED], scores[teacher]
        assert student.logits is not None
        assert student.target is not None
        assert reference.logits is not None
        logits = student.logits, reference.logits, student.target
        agreement = {"split": "test", **evaluation.prediction_agreement(*logits)}
    gap = None
    if Role.BASELINE in scores and teacher is not None:
        names = (Role.BASELINE, Role.DISTILLED, teacher)
        values = [models[name]["test"]["metrics"][spec.name] for name in names]
        if None not in values:
            gap = evaluation.gap_recovered(*(spec.sign * value for value in values), min_gap=spec.min_gap)
    gain, interval, test = _gain_over(Role.BASELINE, scores, task)
    verdict: dict[str, Any] = {
        "outcome": classify_interval(interval), "text": format_verdict(models, gain, interval, gap, metric=spec),
        "metric": spec.name, "unit": spec.difference_unit, "gain": gain, "interval": interval,
        "gap_recovered": gap, "statistical_test": test,
    }  # fmt: skip
    gain, interval, _ = _gain_over(Role.NO_ASSISTANTS, scores, task)
    if gain is not None and interval is not None:
        verdict["vs_no_assistants"] = {
            "outcome": classify_interval(interval), "text": format_vs_no_assistants(gain, interval, metric=spec),
            "metric": spec.name, "unit": spec.difference_unit, "gain": gain, "interval": interval,
        }  # fmt: skip
    return {"agreement": agreement, "verdict": verdict}


def _gain_over(
    reference: str, scores: Mapping[str, SplitScores], task: EvaluableTask
) -> tuple[float | None, list[float] | None, str]:
    """The gain of the distilled student with its interval (``None`` without ``reference``), and the test by name."""
    test = "paired bootstrap over the test samples, 95 %"
    if reference not in scores:
        return None, None, test
    result = evaluation.paired_gain(task, scores[Role.DISTILLED].statistics, scores[reference].statistics)
    test += "" if result.num_resamples == _NUM_RESAMPLES else f", {result.num_resamples:,} resamples"
    return result.gain, None if result.interval is None else list(result.interval), test


def choose_examples(
    job: RunContext,
    networks: Mapping[str, nn.Module],
    scores: Mapping[str, SplitScores],
    split: Split,
    teacher: str | None,
) -> list[dict[str, Any]]:
    """Samples on which the distilled student and the teacher (or the baseline) differ most.

    Of networks with logits by sample, those with different predictions, the most confident first; else those on which
    the student is furthest below or above by the primary metric.
    """
    reference = teacher or (Role.BASELINE.value if Role.BASELINE in scores else None)
    if reference is None or not isinstance(job.task, DeployableTask):
        return []
    indices = _example_indices(job.task, scores[Role.DISTILLED], scores[reference])
    if not len(indices):
        return []
    batch, raw = (next(iterate_batches(split.subset(indices), data)) for data in (job.data.normalization, None))
    with torch.no_grad():
        by_network = {name: job.task.score(network.eval(), batch) for name, network in networks.items()}
    return [_example_to_dict(example) for example in job.task.examples(raw, by_network, data_facts(job.data))]


def show_training_batch(job: RunContext, training: TrainingSettings) -> tuple[list[dict[str, Any]], list[str]]:
    """The first samples of the first batch of ``training``, augmented and not normalized, and warnings.

    Where few samples have a label, so that a batch may hold none, half are the first of the labeled samples.
    """
    if not isinstance(job.task, DeployableTask):
        return [], []
    # The first samples of a smaller batch are those of the batch.
    repeats = job.data.augmentation.repeats
    batch_size = min(training.batch_size, repeats * -(-_NUM_BATCH_SAMPLES // repeats))
    data = replace(job.data, normalization=NoNormalization())
    subsets: list[LabelSubset] = ["labeled", "all"] if 0 < 2 * data.num_labeled < len(data.train) else ["all"]
    examples = list[Example]()
    try:
        for subset in subsets:
            stream = data.batches(batch_size=batch_size, batch_tokens=training.batch_tokens, subset=subset)
            subset_examples = job.task.examples(stream.batch(0), {}, data_facts(data))
            examples += subset_examples[: _NUM_BATCH_SAMPLES // len(subsets)]
    except Exception as error:  # a task of another package
        return [], [
            f"the report shows no training batch: {type(job.task).__name__}.examples fails without scores "
            f"({format_root_cause(error)})"
        ]
    return [_example_to_dict(example) for example in examples], []


def _example_indices(task: EvaluableTask, student: SplitScores, reference: SplitScores) -> Tensor:
    if student.logits is not None and reference.logits is not None and student.target is not None:
        rows = evaluation.find_disagreements(student.logits, reference.logits, student.target, limit=_NUM_EXAMPLES)
        return torch.tensor([row["index"] for row in rows], dtype=torch.long)
    gains = evaluation.sample_gains(task, student.statistics, reference.statistics)
    order = gains.argsort(stable=True)
    half = _NUM_EXAMPLES // 2
    worse, better = order[:half], order.flip(0)[:half]
    return torch.cat([worse[gains[worse] < 0], better[gains[better] > 0]])


def _example_to_dict(example: Example) -> dict[str, Any]:
    def panel(value: Panel) -> dict[str, Any]:
        return {
            "text": value.text,
            "png": base64.b64encode(value.image).decode() if value.image else None,
            "correct": value.correct,
        }

    return {
        "sample_id": example.sample_id, "input": panel(example.input), "target": panel(example.target),
        "predictions": {name: panel(value) for name, value in example.predictions.items()},
    }  # fmt: skip


def measure_student_fidelity(
    job: RunContext,
    networks: Mapping[str, nn.Module],
    scores: Mapping[str, SplitScores],
    *,
    teacher: str | None,
    students: Sequence[str],
) -> dict[str, Any] | None:
    """``fidelity`` of the record: each of ``students`` compared with ``teacher`` on the validation split.

    Predictions are compared on the whole split where a sample has one class, and layers on at most 1000 evenly spaced
    samples.
    """
    if teacher is None or not students:
        return None
    features = {name: record_layers(job, networks[name]) for name in (teacher, *students)}
    similarities = {
        name: {
            **_prediction_similarity(scores[name], scores[teacher], job.data.class_names),
            "cka": evaluation.layerwise_cka(features[name], features[teacher]),
        }
        for name in students
    }
    return {"split": "validation", "teacher": teacher, "students": similarities}


def _prediction_similarity(student: SplitScores, teacher: SplitScores, class_names: Sequence[str]) -> dict[str, Any]:
    if student.logits is None or teacher.logits is None or student.target is None:
        return {}
    return evaluation.prediction_similarity(student.logits, teacher.logits, student.target, class_names=class_names)


def record_layers(job: RunContext, network: nn.Module) -> dict[str, Tensor]:
    """The features of ``network`` by layer; zeros for a sample that a teacher has no output for."""
    split = job.data.validation
    num_samples = min(len(split), _NUM_FIDELITY_SAMPLES)
    recorder, subset = None, split.subset(torch.arange(num_samples) * len(split) // num_samples)
    for batch in iterate_batches(subset, job.data.normalization, batch_size=250):
        recorder = recorder or evaluation.LayerRecorder(network, batch, job.task, max_samples=_NUM_FIDELITY_SAMPLES)
        recorder.record(batch)
    features = {} if recorder is None else recorder.features
    if getattr(network, "allow_missing", False):
        return {layer: torch.nan_to_num(values, nan=0.0) for layer, values in features.items()}
    return features
