"""Variants against their baselines: differences paired by seed, by class, and on which samples two variants agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from torch import Tensor

from limbeck.core.roles import Role
from limbeck.evaluation import Predictions, bootstrap_mean_ci, paired_bootstrap, paired_mean_ci
from limbeck.report.compare import AgreementMatrix, ClassChange, PairedGain, SeedMean
from limbeck.report.record import SplitMetrics
from limbeck.workflows.compare.load_runs import TrialResult

__all__ = ["accuracy_gain", "agreement_matrix", "metric_value", "per_class_changes", "split_metrics", "summarize_seeds"]

TrialsBySeed = Mapping[int | None, TrialResult]
"""The finished trainings of one variant by seed."""


def split_metrics(trial: TrialResult, split: str) -> SplitMetrics | None:
    """The figures of a training on ``split``."""
    model_entry = trial.model_entry
    return None if model_entry is None else model_entry.test if split == "test" else model_entry.validation


def metric_value(trial: TrialResult, split: str, name: str) -> float | None:
    """One metric of a training on ``split``; ``None`` where it is not known."""
    metrics = split_metrics(trial, split)
    return metrics.metrics.get(name) if metrics else None


def summarize_seeds(values: Sequence[float | None]) -> SeedMean | None:
    """Over seeds; ``None`` where no seed has the figure."""
    known_values = [value for value in values if value is not None]
    if not known_values:
        return None
    stats = bootstrap_mean_ci(known_values)
    return SeedMean(stats["mean"], stats["low"], stats["high"], stats["num_seeds"])


def accuracy_gain(variant_trials: TrialsBySeed, baseline_trials: TrialsBySeed, split: str) -> PairedGain | None:
    """One variant against another in points of accuracy, over the seeds that both have; ``None`` where that is none.

    All statistics of runs that belong to no study are made here, and nowhere else.
    """
    variant_accuracies, baseline_accuracies, correct_pairs = list[float](), list[float](), list[tuple[Tensor, Tensor]]()
    for seed in sorted(set(variant_trials) & set(baseline_trials), key=str):
        variant_accuracy = metric_value(variant_trials[seed], split, "accuracy")
        baseline_accuracy = metric_value(baseline_trials[seed], split, "accuracy")
        if variant_accuracy is None or baseline_accuracy is None:
            continue
        variant_accuracies.append(100 * variant_accuracy)
        baseline_accuracies.append(100 * baseline_accuracy)
        correct_pairs += _correct_pairs(variant_trials[seed], baseline_trials[seed], split)
    if not variant_accuracies:
        return None
    stats = paired_mean_ci(variant_accuracies, baseline_accuracies)
    if len(variant_accuracies) > 1:
        return PairedGain(
            **{name: stats[name] for name in ("mean", "low", "high", "t_low", "t_high", "num_seeds", "p_value")}
        )
    interval = (
        paired_bootstrap(*correct_pairs[0])[1:]
        if correct_pairs
        else _recorded_interval(variant_trials, baseline_trials)
    )
    return PairedGain(mean=stats["mean"], sample_interval=interval, num_seeds=1)


def per_class_changes(
    variant_trials: TrialsBySeed, baseline_trials: TrialsBySeed, split: str
) -> tuple[ClassChange, ...]:
    """Accuracy in each class minus the baseline's, in points, averaged over the seeds that both have."""
    points: dict[str, list[float]] = {}
    sample_counts: dict[str, int] = {}
    for seed in set(variant_trials) & set(baseline_trials):
        variant_metrics, baseline_metrics = (
            split_metrics(variant_trials[seed], split),
            split_metrics(baseline_trials[seed], split),
        )
        baseline_accuracies = {
            class_metrics.name: class_metrics.accuracy
            for class_metrics in (baseline_metrics.per_class if baseline_metrics else [])
        }
        for class_metrics in variant_metrics.per_class if variant_metrics else []:
            baseline_accuracy = baseline_accuracies.get(class_metrics.name)
            if class_metrics.accuracy is not None and baseline_accuracy is not None:
                points.setdefault(class_metrics.name, []).append(100 * (class_metrics.accuracy - baseline_accuracy))
                sample_counts[class_metrics.name] = class_metrics.num_samples
    return tuple(ClassChange(name, fmean(values), sample_counts[name]) for name, values in points.items())


def agreement_matrix(trials_by_variant: Mapping[str, TrialsBySeed]) -> AgreementMatrix | None:
    """The share of samples on which two variants choose one class; ``None`` where no answers are kept."""
    with_predictions = {
        name: seeds for name, seeds in trials_by_variant.items() if any(trial.predictions for trial in seeds.values())
    }
    if len(with_predictions) < 2:
        return None
    rows = tuple(
        tuple(
            _seed_agreement(seeds) if name == other_name else _mean_agreement(seeds, with_predictions[other_name])
            for other_name in with_predictions
        )
        for name, seeds in with_predictions.items()
    )
    return AgreementMatrix(tuple(with_predictions), rows)


def _mean_agreement(first_trials: TrialsBySeed, second_trials: TrialsBySeed) -> float | None:
    fractions = [
        _agreement_fraction(first_trials[seed], second_trials[seed]) for seed in set(first_trials) & set(second_trials)
    ]
    known_fractions = [fraction for fraction in fractions if fraction is not None]
    return fmean(known_fractions) if known_fractions else None


def _seed_agreement(trials_by_seed: TrialsBySeed) -> float | None:
    """How far two seeds of one variant agree: what any other figure of the matrix is to be held against."""
    trials = list(trials_by_seed.values())
    fractions = [_agreement_fraction(first, second) for index, first in enumerate(trials) for second in trials[:index]]
    known_fractions = [fraction for fraction in fractions if fraction is not None]
    return fmean(known_fractions) if known_fractions else None


def _agreement_fraction(first: TrialResult, second: TrialResult) -> float | None:
    first_labels, second_labels = _predicted_labels(first), _predicted_labels(second)
    if (
        first_labels is None
        or second_labels is None
        or not first.predictions
        or not second.predictions
        or not _is_same_samples(first.predictions, second.predictions)
    ):
        return None
    return float((first_labels == second_labels).double().mean()) if len(first_labels) else None


def _correct_pairs(first: TrialResult, second: TrialResult, split: str) -> list[tuple[Tensor, Tensor]]:
    """Who is right where, of both on the same samples; empty where that is not known."""
    if (
        not first.predictions
        or not second.predictions
        or _predicted_labels(first) is None
        or _predicted_labels(second) is None
    ):
        return []
    if not _is_same_samples(first.predictions, second.predictions) or first.predictions.split != split:
        return []
    correct_pair = first.predictions.correct(first.model_name), second.predictions.correct(second.model_name)
    return [correct_pair] if len(correct_pair[0]) else []


def _predicted_labels(trial: TrialResult) -> Tensor | None:
    return trial.predictions.predicted.get(trial.model_name) if trial.predictions else None


def _is_same_samples(first: Predictions, second: Predictions) -> bool:
    is_same_source = (first.split, first.fingerprint) == (second.split, second.fingerprint)
    return first is second or (is_same_source and bool(first.fingerprint) and len(first.target) == len(second.target))


def _recorded_interval(variant_trials: TrialsBySeed, baseline_trials: TrialsBySeed) -> tuple[float, float] | None:
    """The interval that a run wrote down itself, where its answers were not kept: of distilled against alone."""
    variant_trial, baseline_trial = next(iter(variant_trials.values())), next(iter(baseline_trials.values()))
    if (
        variant_trial.record is None
        or variant_trial.record is not baseline_trial.record
        or (variant_trial.role, baseline_trial.role) != (Role.DISTILLED, Role.BASELINE)
    ):
        return None
    interval = variant_trial.record.verdict.interval_points if variant_trial.record.verdict else None
    return (interval[0], interval[1]) if interval and interval[0] is not None and interval[1] is not None else None
