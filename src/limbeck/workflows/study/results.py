"""``study.json``: the state of each trial, and means, differences paired by seed and verdicts of the finished ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self, final

from torch import Tensor

from limbeck._version import __version__
from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.roles import Role
from limbeck.core.task import EvaluableTask, require_evaluable
from limbeck.evaluation import (
    adjust_p_values_holm,
    bootstrap_mean_ci,
    gap_recovered_ci,
    metric_mcnemar_test,
    paired_gain_over_seeds,
    paired_mean_ci,
    required_num_seeds,
)
from limbeck.recipe import Recipe
from limbeck.recipe.resolve_node import resolve_node
from limbeck.recipe.schema import to_plain
from limbeck.recipe.study_schema import BASELINES, Study
from limbeck.report.formatting import format_points
from limbeck.report.record import Record
from limbeck.report.task_metrics import UNKNOWN_METRIC
from limbeck.report.verdict import RULE_OVER_SEEDS, classify_gain_over_seeds, format_verdict_over_seeds
from limbeck.utils.io import write_text
from limbeck.workflows.compare.load_runs import TrialResult, TrialsBySeed, load_study_trials
from limbeck.workflows.study.trials import list_trials, read_states
from limbeck.workflows.study.variants import StudyContext, Variant, make_variants

__all__ = ["write_study"]

_BASELINE = BASELINES[0]
_RESOURCES = ("seconds", "cpu_seconds", "gpu_seconds", "joules")
_OUTCOME_TEXTS = {"inconclusive": "no significant difference"}


def write_study(recipe: Recipe, context: StudyContext) -> dict[str, Any]:
    """Write ``study.json`` from the trials that are finished, and return what it holds.

    Raises:
        LimbeckError: the record of a finished trial cannot be read.
    """
    config, variants, trials = recipe.study or Study(), make_variants(recipe), list_trials(recipe)
    states = read_states(context.study_dir, trials)
    summary: dict[str, Any] = {
        "schema": 2,
        "kind": "study",
        "limbeck": __version__,
        "name": recipe.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": to_plain(recipe),
        "seeds": list(config.seeds),
        "baseline": _BASELINE,
        "keep_weights": recipe.training.keep_weights,
        "time_ratio": context.time_ratio,
        "num_shared_views": context.num_views,
        "variants": {variant.name: _variant_entry(variant, recipe, context) for variant in variants.values()},
        "trials": [
            {"variant": trial.variant, "seed": trial.seed, "folder": trial.path, "state": state, "error": error}
            for trial, (state, error) in states.items()
        ],
    }
    results = load_study_trials(context.study_dir, summary)
    for entry, result, trial in zip(summary["trials"], results, trials, strict=True):
        entry["seconds"] = result.record.seconds if result.record else None
        if states[trial][0] == "done" and result.record is None:
            raise LimbeckError(
                f"{result.folder / 'record.json'} cannot be read ({result.error}): remove the folder {result.folder}, "
                "and --resume trains it again"
            )
    summary["results"] = _compute_results(results, variants, _StudyMetric.from_results(recipe, results))
    write_text(context.study_dir / "study.json", json.dumps(summary, indent=1, allow_nan=False))
    return summary


def _variant_entry(variant: Variant, recipe: Recipe, context: StudyContext) -> dict[str, Any]:
    notes = []
    if variant.role == Role.BASELINE_EQUAL_TIME:
        notes.append(f"{context.time_ratio:.2f} times the steps, since a distilled step takes as many times as long")
    if variant.role == Role.BASELINE_LABEL_SMOOTHING:
        notes.append(f"label smoothing {(recipe.study or Study()).label_smoothing:g}")
    keep_weights = variant.overrides.get("training.keep_weights", recipe.training.keep_weights)
    if keep_weights == "best" and variant.role != Role.TEACHER:
        notes.append("the best epoch by validation, not the last")
    note = "; ".join(notes) or None
    return {"role": variant.role, "title": variant.title, "overrides": dict(variant.overrides), "note": note}


@final
@dataclass(frozen=True, slots=True)
class _StudyMetric:
    """The primary metric of a study, by the first finished trial; ``task`` computes it from statistics."""

    spec: MetricSpec
    names: tuple[str, ...]
    task: EvaluableTask | None

    @classmethod
    def from_results(cls, recipe: Recipe, results: Sequence[TrialResult]) -> Self:
        record = next((result.record for result in results if result.record), None)
        if record is None:
            return cls(MetricSpec(name=UNKNOWN_METRIC, label=UNKNOWN_METRIC), (), None)
        facts = {"classes": len(record.data.classes), **record.data.facts}
        # With defaults for facts that are not in the record: it has no long lists, such as a vocabulary.
        task = resolve_node(to_plain(recipe.task), "task", plugins=recipe.plugins, provided=facts).build()
        return cls(record.primary_spec, tuple(record.metric_info), require_evaluable(task, "limbeck study"))

    @property
    def validation_key(self) -> str:
        """The key of its mean on the validation split."""
        return f"val_{self.spec.name}"

    def gains(self, trials: TrialsBySeed, seeds: Sequence[int | None]) -> list[float]:
        """The metric of each seed as a gain over zero: scaled, and with a sign so that higher is better."""
        return [self.spec.sign * self.spec.display_scale * value for value in self.values(trials, seeds)]

    def values(self, trials: TrialsBySeed, seeds: Sequence[int | None]) -> list[float]:
        """The metric of each seed on the test split, in its own scale."""
        return [value for seed in seeds if (value := trials[seed].metric("test", self.spec.name)) is not None]


def _compute_results(
    results: Sequence[TrialResult], variants: Mapping[str, Variant], metric: _StudyMetric
) -> dict[str, Any]:
    trials: dict[str, TrialsBySeed] = {
        name: {result.seed: result for result in results if result.variant == name and result.record}
        for name in variants
    }
    summaries = {
        name: _summarize_metrics(trials[name], metric) | _compare_to_baselines(variant, trials, metric)
        for name, variant in variants.items()
        if trials[name]
    }
    distilled = {name: summary for name, summary in summaries.items() if variants[name].role == Role.DISTILLED}
    # Of many variants some differ by chance: Holm's correction of their p-values.
    gains = [gain for summary in distilled.values() if (gain := summary["gain"]) and gain["p_value"] is not None]
    if gains:
        corrected = adjust_p_values_holm([gain["p_value"] for gain in gains])
        for gain, p_value in zip(gains, corrected, strict=True):
            gain["p_value_holm"] = p_value
    # A variant is selected on validation; the test split selects nothing.
    key = metric.validation_key
    measured = [name for name, summary in distilled.items() if summary[key] is not None]
    best = max(measured, key=lambda name: metric.spec.sign * distilled[name][key]["mean"], default=None)
    selected = None
    if best is not None:
        criterion = f"mean validation {metric.spec.text}"
        selected = {"variant": best, "criterion": criterion, key: distilled[best][key]["mean"]}
    return {"variants": summaries, "rule": RULE_OVER_SEEDS, "selected": selected}


def _summarize_metrics(trials: TrialsBySeed, metric: _StudyMetric) -> dict[str, Any]:
    entries = [entry for trial in trials.values() if (entry := trial.model_entry)]
    costs = [entry.resources for entry in entries if entry.resources]
    records = [trial.record for trial in trials.values() if trial.record]
    return {
        **{name: _mean_of_all([trial.metric("test", name) for trial in trials.values()]) for name in metric.names},
        metric.validation_key: _mean_of_all(
            [trial.metric("validation", metric.spec.name) for trial in trials.values()]
        ),
        "resources": {name: _mean_of_all([getattr(cost, name) for cost in costs]) for name in _RESOURCES},
        "steps": entries[0].steps,
        "weights": "best on validation" if _keeps_best(records[0]) else "last epoch",
    }


def _mean_of_all(values: Sequence[float | None]) -> dict[str, Any] | None:
    """The mean with its interval; ``None`` if a value is missing."""
    numbers = [value for value in values if value is not None]
    return bootstrap_mean_ci(numbers) if numbers and len(numbers) == len(values) else None


def _keeps_best(record: Record) -> bool:
    stages = [stage.get("training", {}) for stage in record.recipe["stages"]]
    return any(training.get("keep_weights") == "best" for training in (record.recipe["training"], *stages))


def _compare_to_baselines(variant: Variant, trials: Mapping[str, TrialsBySeed], metric: _StudyMetric) -> dict[str, Any]:
    """Gain over ``student_only`` on the shared seeds with its verdict, and gains over the other baselines."""
    variant_trials, baseline, teachers = trials[variant.name], trials.get(_BASELINE, {}), trials.get("teacher", {})
    seeds = [seed for seed in variant_trials if seed in baseline]
    if variant.name == _BASELINE or not seeds:
        return {"gain": None, "gap_recovered": None, "verdict": None}
    gains, baseline_gains = metric.gains(variant_trials, seeds), metric.gains(baseline, seeds)
    gain = _paired_gain(variant_trials, baseline, metric) | _test_over_samples(
        [(variant_trials[seed], baseline[seed]) for seed in seeds], metric
    )
    gap = None
    if variant.role != Role.TEACHER and teachers and all(seed in teachers for seed in seeds):
        sides = (
            [metric.spec.sign * value for value in metric.values(side, seeds)]
            for side in (baseline, variant_trials, teachers)
        )
        gap = gap_recovered_ci(*sides, min_gap=metric.spec.min_gap)
    differences = [a - b for a, b in zip(gains, baseline_gains, strict=True)]
    seeds_needed = required_num_seeds(differences)
    verdict: dict[str, Any] = {
        "outcome": classify_gain_over_seeds(gain),
        "text": format_verdict_over_seeds(
            variant.name, _BASELINE, gain, gap_recovered=gap, seeds_needed=seeds_needed, metric=metric.spec
        ),
        "seeds_needed": seeds_needed,
    }
    if not variant.uses_teachers:
        return {"gain": gain, "gap_recovered": gap, "verdict": verdict}
    # More steps or smooth labels may give as much as a teacher.
    vs_baselines = {
        name: {"gain": baseline_gain, "outcome": classify_gain_over_seeds(baseline_gain)}
        for name in BASELINES[1:]
        if name in trials and (baseline_gain := _paired_gain(variant_trials, trials[name], metric))
    }
    verdict["text"] += _format_gains(vs_baselines, metric.spec)
    return {"gain": gain, "gap_recovered": gap, "verdict": verdict, "vs_baselines": vs_baselines}


def _paired_gain(trials: TrialsBySeed, baseline: TrialsBySeed, metric: _StudyMetric) -> dict[str, Any]:
    """The gain on the test split over the shared seeds; empty if there are none."""
    seeds = [seed for seed in trials if seed in baseline]
    return paired_mean_ci(metric.gains(trials, seeds), metric.gains(baseline, seeds)) if seeds else {}


def _format_gains(gains: Mapping[str, Any], spec: MetricSpec) -> str:
    """A sentence on the gains over the other baselines, after the verdict."""
    texts = []
    for name, entry in gains.items():
        gain, interval_text, outcome = entry["gain"], "", entry["outcome"]
        if gain["low"] is not None:
            low, high = min(gain["low"], gain["t_low"]), max(gain["high"], gain["t_high"])
            interval_text = f" ({format_points(low, digits=2)} to {format_points(high, digits=2)})"
        points = format_points(gain["mean"], digits=2)
        texts.append(f"{name} {points} {spec.difference_unit}{interval_text}, {_OUTCOME_TEXTS.get(outcome, outcome)}")
    return f" Against the other baselines: {'; '.join(texts)}." if texts else ""


def _test_over_samples(pairs: Sequence[tuple[TrialResult, TrialResult]], metric: _StudyMetric) -> dict[str, Any]:
    """The paired tests over test samples, where both trials have saved their predictions.

    McNemar's test is for an accuracy only.
    """
    statistics, mcnemar_results, fingerprints = list[tuple[Tensor, Tensor]](), list[dict[str, Any]](), set[str]()
    for trial, baseline in pairs:
        sides = [
            side.predictions.statistics.get(side.model_name) if side.predictions else None for side in (trial, baseline)
        ]
        if metric.task is None or sides[0] is None or sides[1] is None:
            return {"sample_interval": None, "mcnemar": []}
        pair = sides[0], sides[1]
        statistics.append(pair)
        if (result := metric_mcnemar_test(metric.task, *pair)) is not None:
            mcnemar_results.append({"seed": trial.seed, **result})
        fingerprints |= {side.predictions.fingerprint for side in (trial, baseline) if side.predictions}
    assert metric.task is not None
    gain = paired_gain_over_seeds(metric.task, statistics, shared_samples=len(fingerprints) == 1)
    interval = None if gain.interval is None else {"low": gain.interval[0], "high": gain.interval[1]}
    return {"sample_interval": interval, "mcnemar": mcnemar_results}
