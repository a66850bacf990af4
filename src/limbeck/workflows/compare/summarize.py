"""Results of variants: those in ``study.json`` are taken, others are computed from the records of the trials."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.roles import Role
from limbeck.core.task import require_evaluable
from limbeck.evaluation import (
    Predictions,
    bootstrap_mean_ci,
    gap_recovered,
    labeled_pair,
    paired_gain,
    paired_mean_ci,
)
from limbeck.recipe.resolve_node import resolve_node
from limbeck.report.compare.comparison import (
    AgreementMatrix,
    ClassChange,
    GapRecovered,
    PairedGain,
    SeedMean,
    TrainingCost,
    VariantResult,
)
from limbeck.report.latency import LatencyInterval, architecture_key, pool_latencies
from limbeck.report.record_sections import ModelRecord
from limbeck.report.task_metrics import TaskMetrics
from limbeck.report.verdict import classify_gain, format_gain_verdict
from limbeck.workflows.compare.load_runs import TrialResult, TrialsBySeed

__all__ = ["agreement_matrix", "summarize_variant"]

_Parsed = TypeVar("_Parsed")


def summarize_variant(
    name: str,
    trials_by_variant: Mapping[str, TrialsBySeed],
    all_trials: Sequence[TrialResult],
    *,
    baseline: str | None,
    split: str,
    metrics: TaskMetrics,
    study_results: Mapping[str, Any],
    study_entry: Mapping[str, Any],
) -> VariantResult:
    """The variant ``name`` compared with ``baseline`` (``None`` for the baseline itself) on ``split``.

    ``study_results`` and ``study_entry`` are its results and its settings in ``study.json``; missing ones are computed.
    ``metrics`` are those of all variants.
    """
    spec = metrics.primary_spec
    trials_by_seed, variant_trials = trials_by_variant[name], [trial for trial in all_trials if trial.variant == name]
    entries = [trial.model_entry for trial in trials_by_seed.values() if trial.model_entry]
    model = entries[0] if entries else None
    baseline_trials = trials_by_variant[baseline] if baseline else {}
    gain = _parse_gain(study_results.get("gain")) or _primary_gain(trials_by_seed, baseline_trials, split, spec)
    gap = _parse(GapRecovered, study_results.get("gap_recovered")) or _gap_recovered(
        variant_trials[0], trials_by_variant, all_trials, baseline, split, spec
    )

    def seed_mean(key: str) -> SeedMean | None:
        if (mean := _parse(SeedMean, study_results.get(key))) is not None:
            return mean
        values = [value for trial in trials_by_seed.values() if (value := trial.metric(split, key)) is not None]
        return _parse(SeedMean, bootstrap_mean_ci(values)) if values else None

    counts = [entry.num_samples for trial in trials_by_seed.values() if (entry := trial.metrics(split))]
    num_samples = counts[0] if counts else None
    verdict = study_results["verdict"] if isinstance(study_results.get("verdict"), dict) else {}
    text = format_gain_verdict(name, baseline, gain, gap, num_samples=num_samples, metric=spec)
    outcome = verdict.get("outcome")
    means = {name: mean for name in metrics.metric_info if (mean := seed_mean(name)) is not None}
    fields: dict[str, Any] = {key: getattr(model, key) for key in ("parameters", "flops", "bytes", "steps") if model}
    return VariantResult(
        name=name,
        role=cast(Any, variant_trials[0].role),
        # The name of the variant replaces the role in the title of a model.
        title=str(study_entry.get("title") or (model and (model.title.partition(": ")[2] or model.title)) or ""),
        note=_format_note(study_entry),
        baseline=baseline,
        metrics=means,
        gain=gain,
        gap_recovered=gap,
        outcome=outcome if outcome in ("improves", "degrades", "inconclusive", "unknown") else classify_gain(gain),
        verdict_text=str(verdict.get("text") or text),
        seeds_needed=verdict.get("seeds_needed"),
        latency=_pool_latency(model, all_trials),
        resources=_summarize_resources(entries),
        class_changes=_per_class_changes(trials_by_seed, baseline_trials, split, spec),
        curves=tuple(trial.curve for trial in variant_trials if trial.curve),
        **fields,
    )


def agreement_matrix(trials_by_variant: Mapping[str, TrialsBySeed]) -> AgreementMatrix | None:
    """The fraction of equal classes of each two variants; ``None`` where no two variants have saved classes.

    The diagonal is the agreement of two seeds of one variant.
    """
    variants = {
        name: trials for name, trials in trials_by_variant.items() if any(t.predictions for t in trials.values())
    }
    if len(variants) < 2:
        return None

    def agreement(row: str, column: str) -> float | None:
        first, second = variants[row], variants[column]
        if row == column:
            trials = list(first.values())
            pairs = [(trial, earlier) for index, trial in enumerate(trials) for earlier in trials[:index]]
        else:
            pairs = [(first[seed], second[seed]) for seed in set(first) & set(second)]
        return _mean_of_known(_agreement_fraction(*pair) for pair in pairs)

    matrix = tuple(tuple(agreement(row, column) for column in variants) for row in variants)
    is_known = any(value is not None for row in matrix for value in row)
    return AgreementMatrix(tuple(variants), matrix) if is_known else None


def _primary_gain(
    variant_trials: TrialsBySeed, baseline_trials: TrialsBySeed, split: str, spec: MetricSpec
) -> PairedGain | None:
    """The gain by the primary metric over the shared seeds; ``None`` if there is no such seed."""
    scale = spec.sign * spec.display_scale
    values, pairs = list[tuple[float, float]](), list[tuple[Tensor, Tensor]]()
    for seed in sorted(set(variant_trials) & set(baseline_trials), key=str):
        trial, baseline = variant_trials[seed], baseline_trials[seed]
        value, baseline_value = trial.metric(split, spec.name), baseline.metric(split, spec.name)
        if value is None or baseline_value is None:
            continue
        values.append((scale * value, scale * baseline_value))
        predictions = _same_sample_predictions(trial, baseline)
        if predictions is not None and predictions[0].split == split:
            statistics = (
                side.statistics[entry.model_name] for side, entry in zip(predictions, (trial, baseline), strict=True)
            )
            pairs.append(labeled_pair(*statistics))
    if not values:
        return None
    stats = paired_mean_ci(*map(list, zip(*values, strict=True)))
    if len(values) > 1:
        return PairedGain(
            **{name: stats[name] for name in ("mean", "low", "high", "t_low", "t_high", "num_seeds", "p_value")}
        )
    trial = next(variant_trials[seed] for seed in variant_trials if seed in baseline_trials)
    interval = _sample_interval(trial, *pairs[0]) if pairs else None
    interval = interval or _recorded_interval(trial, next(iter(baseline_trials.values())))
    return PairedGain(mean=stats["mean"], sample_interval=interval, num_seeds=1)


def _sample_interval(trial: TrialResult, statistics: Tensor, baseline: Tensor) -> tuple[float, float] | None:
    """The interval over test samples; ``None`` where the task of the record is not one that is installed."""
    if trial.record is None or "task" not in trial.record.recipe:
        return None
    facts = {"classes": len(trial.record.data.classes), **trial.record.data.facts}
    try:
        task = resolve_node(trial.record.recipe["task"], "task", provided=facts).build()
        return paired_gain(require_evaluable(task, "limbeck compare"), statistics, baseline).interval
    except LimbeckError:
        return None


def _per_class_changes(
    variant_trials: TrialsBySeed, baseline_trials: TrialsBySeed, split: str, spec: MetricSpec
) -> tuple[ClassChange, ...]:
    """The gain in each class over the baseline, the mean over the shared seeds."""
    gains: dict[str, list[float]] = {}
    sample_counts: dict[str, int] = {}
    for seed in set(variant_trials) & set(baseline_trials):
        metrics, baseline_metrics = variant_trials[seed].metrics(split), baseline_trials[seed].metrics(split)
        if metrics is None or baseline_metrics is None:
            continue
        baseline_values = {entry.name: entry.value for entry in baseline_metrics.per_class}
        for entry in metrics.per_class:
            baseline_value = baseline_values.get(entry.name)
            if entry.value is not None and baseline_value is not None:
                gains.setdefault(entry.name, []).append(spec.gain(entry.value, baseline_value))
                sample_counts[entry.name] = entry.num_samples
    return tuple(ClassChange(name, fmean(values), sample_counts[name]) for name, values in gains.items())


def _gap_recovered(
    trial: TrialResult,
    trials_by_variant: Mapping[str, TrialsBySeed],
    all_trials: Sequence[TrialResult],
    baseline: str | None,
    split: str,
    spec: MetricSpec,
) -> GapRecovered | None:
    """The fraction of the gap to the teacher of the same recipe; of several, the best on validation."""
    teachers = {t.variant for t in all_trials if t.role == Role.TEACHER and t.group == trial.group}
    if not baseline or trial.role in (Role.TEACHER, Role.ASSISTANT) or not teachers:
        return None

    def mean_value(name: str, split: str, seeds: set[int | None]) -> float | None:
        """The primary metric with the sign by which higher is better; ``None`` where a seed has none."""
        values = [trials_by_variant[name][seed].metric(split, spec.name) for seed in seeds]
        mean = None if None in values else _mean_of_known(values)
        return None if mean is None else spec.sign * mean

    def rank(name: str) -> float:
        value = mean_value(name, "validation", set(trials_by_variant[name]))
        return -math.inf if value is None else value

    names = (baseline, trial.variant, max(sorted(teachers), key=rank))
    seeds = set.intersection(*(set(trials_by_variant[name]) for name in names))
    values = [value for name in names if (value := mean_value(name, split, seeds)) is not None]
    gap = gap_recovered(*values, min_gap=spec.min_gap) if len(values) == len(names) else None
    return None if gap is None else GapRecovered(gap)


def _pool_latency(model: ModelRecord | None, all_trials: Sequence[TrialResult]) -> LatencyInterval | None:
    """The latency of the architecture of ``model``, over all models of the comparison that have it."""
    if model is None:
        return None
    entries = [trial.model_entry for trial in all_trials if trial.model_entry]
    measured = [
        latency for entry in entries if architecture_key(entry) == architecture_key(model)
        and (latency := LatencyInterval.from_latency(entry.latency_ms)) is not None
    ]  # fmt: skip
    return pool_latencies(measured) if measured else None


def _summarize_resources(entries: Sequence[ModelRecord]) -> TrainingCost:
    cost = {
        key: _mean_of_known(getattr(entry.resources, key) for entry in entries if entry.resources)
        for key in ("seconds", "cpu_seconds", "gpu_seconds", "joules")
    }
    if cost["seconds"] is None:
        cost["seconds"] = _mean_of_known(entry.seconds for entry in entries)
    return TrainingCost(**cost)


def _format_note(study_entry: Mapping[str, Any]) -> str:
    changes = study_entry.get("overrides")
    change_text = ", ".join(f"{key}={value}" for key, value in changes.items()) if isinstance(changes, Mapping) else ""
    return "; ".join(text for text in (change_text, str(study_entry.get("note") or "")) if text)


def _parse_gain(value: Any) -> PairedGain | None:
    """A difference to the baseline.

    >>> _parse_gain({"mean": 2.0, "low": 1.0, "high": 3.0, "t_low": 0.5, "t_high": 3.5, "num_seeds": 5}).interval
    (0.5, 3.5)
    """
    if isinstance(value, dict) and isinstance(interval := value.get("sample_interval"), dict):
        value = value | {"sample_interval": (interval.get("low"), interval.get("high"))}
    return _parse(PairedGain, value)


def _parse(kind: type[_Parsed], value: Any) -> _Parsed | None:
    """``value`` of ``study.json`` as a ``kind``; ``None`` if it has another form.

    >>> _parse(SeedMean, {"mean": 0.9, "std": None, "low": None, "high": None, "num_seeds": 1}), _parse(SeedMean, 3)
    (SeedMean(mean=0.9, low=None, high=None, num_seeds=1), None)
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return None


def _mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not ``None``; ``None`` if there are none.

    >>> _mean_of_known([1.0, None, 2.0]), _mean_of_known([None])
    (1.5, None)
    """
    known_values = [value for value in values if value is not None]
    return fmean(known_values) if known_values else None


def _agreement_fraction(first: TrialResult, second: TrialResult) -> float | None:
    predictions = _same_sample_predictions(first, second)
    if predictions is None or predictions[0].target is None or not len(predictions[0].target):
        return None
    labels = [pair.predicted[trial.model_name] for pair, trial in zip(predictions, (first, second), strict=True)]
    return float((labels[0] == labels[1]).double().mean())


def _same_sample_predictions(first: TrialResult, second: TrialResult) -> tuple[Predictions, Predictions] | None:
    """The predictions of both; ``None`` if one has none, or they are of different samples."""
    predictions = first.predictions, second.predictions
    a, b = predictions
    if a is None or b is None or first.model_name not in a.statistics or second.model_name not in b.statistics:
        return None
    is_same_source = bool(a.fingerprint) and (a.split, a.fingerprint) == (b.split, b.fingerprint)
    return (a, b) if a is b or (is_same_source and _num_samples(a) == _num_samples(b)) else None


def _num_samples(predictions: Predictions) -> int:
    return len(next(iter(predictions.statistics.values())))


def _recorded_interval(trial: TrialResult, baseline: TrialResult) -> tuple[float, float] | None:
    """The interval in the record of a run, where its predictions were not saved."""
    if trial.record is None or trial.record is not baseline.record or trial.record.verdict is None:
        return None
    low, high = trial.record.verdict.interval or (None, None)
    is_recorded = (trial.role, baseline.role) == (Role.DISTILLED, Role.BASELINE)
    return (low, high) if is_recorded and low is not None and high is not None else None
