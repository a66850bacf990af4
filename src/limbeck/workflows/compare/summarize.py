"""One variant with all its figures: those that a study has worked out are taken, others are worked out here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, cast

from limbeck.core.roles import Role
from limbeck.evaluation import gap_recovered
from limbeck.report import classify_gain, format_gain_verdict
from limbeck.report.compare import GapRecovered, SeedMean, TrainingCost, VariantResult
from limbeck.report.record import ModelRecord
from limbeck.workflows.compare.differences import (
    TrialsBySeed,
    accuracy_gain,
    metric_value,
    per_class_changes,
    split_metrics,
    summarize_seeds,
)
from limbeck.workflows.compare.load_runs import TrialResult
from limbeck.workflows.compare.study_json import parse_gain, parse_gap, parse_mean

__all__ = ["summarize_variant"]


def summarize_variant(
    name: str,
    trials_by_variant: Mapping[str, TrialsBySeed],
    all_trials: Sequence[TrialResult],
    *,
    baseline: str | None,
    split: str,
    study_results: Mapping[str, Any],
    study_entry: Mapping[str, Any],
) -> VariantResult:
    """The variant ``name`` against ``baseline``.

    Arguments:
        name: of the variant.
        trials_by_variant: finished trainings of every variant by seed.
        all_trials: all trainings, finished or not.
        baseline: the variant it is compared with; ``None`` of the baseline itself.
        split: of the data, ``test`` or ``validation``.
        study_results: its results in ``study.json``; what is missing is worked out.
        study_entry: what ``study.json`` says of it: ``title``, ``overrides``, ``note``.
    """
    trials_by_seed, variant_trials = trials_by_variant[name], [trial for trial in all_trials if trial.variant == name]
    model_entries = [trial.model_entry for trial in trials_by_seed.values() if trial.model_entry]
    model = model_entries[0] if model_entries else None
    baseline_trials = trials_by_variant[baseline] if baseline else {}
    gain = parse_gain(study_results.get("gain")) or (
        accuracy_gain(trials_by_seed, baseline_trials, split) if baseline else None
    )
    gap = parse_gap(study_results.get("gap_recovered")) or _gap_recovered(
        variant_trials[0], trials_by_variant, all_trials, baseline, split
    )
    recorded_verdict = study_results["verdict"] if isinstance(study_results.get("verdict"), dict) else {}

    def seed_mean(key: str) -> SeedMean | None:
        return parse_mean(study_results.get(key)) or summarize_seeds(
            [metric_value(trial, split, key) for trial in trials_by_seed.values()]
        )

    num_samples = next(
        (metrics.num_samples for trial in trials_by_seed.values() if (metrics := split_metrics(trial, split))), None
    )
    text = format_gain_verdict(name, baseline, gain, gap, num_samples=num_samples)
    outcome = recorded_verdict.get("outcome")
    return VariantResult(
        name=name,
        role=cast(Any, variant_trials[0].role),
        title=str(study_entry.get("title") or _strip_role(model)),
        note=_format_note(study_entry),
        baseline=baseline,
        accuracy=seed_mean("accuracy"),
        macro_f1=seed_mean("macro_f1"),
        nll=seed_mean("nll"),
        ece=seed_mean("ece"),
        gain=gain,
        gap_recovered=gap,
        outcome=outcome if outcome in ("improves", "degrades", "inconclusive", "unknown") else classify_gain(gain),
        verdict_text=str(recorded_verdict.get("text") or text),
        seeds_needed=recorded_verdict.get("seeds_needed"),
        parameters=model.parameters if model else None,
        flops=model.flops if model else None,
        bytes=model.bytes if model else None,
        latency_ms=_mean_of_known(trial.latency_ms.median if trial.latency_ms else None for trial in model_entries),
        steps=model.steps if model else None,
        resources=_summarize_resources(model_entries),
        class_changes=per_class_changes(trials_by_seed, baseline_trials, split),
        curves=tuple(trial.curve for trial in variant_trials if trial.curve),
    )


def _gap_recovered(
    trial: TrialResult,
    trials_by_variant: Mapping[str, TrialsBySeed],
    all_trials: Sequence[TrialResult],
    baseline: str | None,
    split: str,
) -> GapRecovered | None:
    """The share of the gap from the baseline to the teacher of the same recipe; the best on validation, of several."""
    teacher_names = {
        group_trial.variant
        for group_trial in all_trials
        if group_trial.role == Role.TEACHER and group_trial.group == trial.group
    }
    if not baseline or trial.role in (Role.TEACHER, Role.ASSISTANT) or not teacher_names:
        return None

    def mean_accuracy(name: str, eval_split: str, seeds: set[int | None]) -> float:
        accuracies = [metric_value(trials_by_variant[name][seed], eval_split, "accuracy") for seed in seeds]
        known_accuracies = [accuracy for accuracy in accuracies if accuracy is not None]
        return fmean(known_accuracies) if known_accuracies and len(known_accuracies) == len(seeds) else -1.0

    best_teacher = max(
        sorted(teacher_names), key=lambda name: mean_accuracy(name, "validation", set(trials_by_variant[name]))
    )
    shared_seeds = (
        set(trials_by_variant[trial.variant]) & set(trials_by_variant[baseline]) & set(trials_by_variant[best_teacher])
    )
    accuracies = [mean_accuracy(name, split, shared_seeds) for name in (baseline, trial.variant, best_teacher)]
    gap = gap_recovered(*accuracies) if min(accuracies) >= 0 else None
    return None if gap is None else GapRecovered(gap)


def _summarize_resources(model_entries: Sequence[ModelRecord]) -> TrainingCost:
    def seed_mean(key: str) -> float | None:
        return _mean_of_known(getattr(entry.resources, key, None) for entry in model_entries)

    seconds = seed_mean("seconds")
    return TrainingCost(
        _mean_of_known(entry.seconds for entry in model_entries) if seconds is None else seconds,
        seed_mean("cpu_seconds"),
        seed_mean("gpu_seconds"),
        seed_mean("joules"),
    )


def _strip_role(model: ModelRecord | None) -> str:
    """A model's title without its role, which the name of the variant tells."""
    return "" if model is None else model.title.partition(": ")[2] or model.title


def _format_note(study_entry: Mapping[str, Any]) -> str:
    changes = study_entry.get("overrides")
    change_text = ", ".join(f"{key}={value}" for key, value in changes.items()) if isinstance(changes, Mapping) else ""
    return "; ".join(text for text in (change_text, str(study_entry.get("note") or "")) if text)


def _mean_of_known(values: Iterable[float | None]) -> float | None:
    known_values = [value for value in values if value is not None]
    return fmean(known_values) if known_values else None
