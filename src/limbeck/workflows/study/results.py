"""What a study has found so far, out of the records of its trials: means, differences paired by seed, verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.core.roles import Role
from limbeck.evaluation import (
    adjust_p_values_holm,
    bootstrap_mean_ci,
    gap_recovered_ci,
    load_predictions,
    mcnemar_test,
    paired_bootstrap_over_seeds,
    paired_mean_ci,
    required_num_seeds,
)
from limbeck.recipe.study_schema import BASELINES
from limbeck.report import RULE_OVER_SEEDS, classify_gain_over_seeds, format_verdict_over_seeds
from limbeck.report.formatting import format_points
from limbeck.workflows.study.variants import Variant

__all__ = ["BASELINE", "compute_results"]

BASELINE = "student_only"
_METRICS = ("accuracy", "macro_f1", "nll", "ece")
_RESOURCES = ("seconds", "cpu_seconds", "gpu_seconds", "joules")

RecordsBySeed = Mapping[int, Mapping[str, Any]]


def compute_results(folder: Path, variants: Mapping[str, Variant], seeds: Sequence[int]) -> dict[str, Any]:
    """The ``results`` of ``study.json``: of each variant with a finished trial its figures and its gain."""
    records = {name: _read_records(folder, name, seeds) for name in variants}
    baseline_records, teacher_records = records.get(BASELINE, {}), records.get("teacher", {})
    summaries = {}
    for name, variant in variants.items():
        if records[name]:
            summaries[name] = _summarize_metrics(records[name], variant)
            summaries[name] |= _compare_to_baseline(folder, variant, records[name], baseline_records, teacher_records)
            if variant.uses_teachers and summaries[name]["verdict"]:
                summaries[name] |= {"vs_baselines": _gains_over_baselines(variant, records)}
                summaries[name]["verdict"]["text"] += _format_gains(summaries[name]["vs_baselines"])
    _apply_holm(summaries, variants)
    return {"variants": summaries, "rule": RULE_OVER_SEEDS, "selected": _select_best_variant(summaries, variants)}


def _read_records(folder: Path, variant: str, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The records of the finished trials of one variant, by seed."""
    records = {}
    for seed in seeds:
        path = folder / "trials" / variant / str(seed) / "record.json"
        if path.exists():
            records[seed] = _read_record(path)
    return records


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        if not record["models"]:
            raise ValueError("it has no model")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LimbeckError(
            f"{path} cannot be read ({format_root_cause(error)}): remove the folder {path.parent}, and --resume "
            "trains it again"
        ) from error
    return record


def _find_model(record: Mapping[str, Any], variant: str) -> Mapping[str, Any]:
    """The variant's student; of several teachers the best on validation."""
    models: Mapping[str, Mapping[str, Any]] = record["models"]
    if variant in models:
        return models[variant]
    return max(models.values(), key=lambda model: model["validation"]["metrics"]["accuracy"])


def _summarize_metrics(records: RecordsBySeed, variant: Variant) -> dict[str, Any]:
    models = [_find_model(record, variant.name) for record in records.values()]
    summary: dict[str, Any] = {
        name: bootstrap_mean_ci([model["test"]["metrics"][name] for model in models]) for name in _METRICS
    }  # fmt: skip
    summary["val_accuracy"] = bootstrap_mean_ci([model["validation"]["metrics"]["accuracy"] for model in models])
    resources = {}
    for name in _RESOURCES:
        values = [model["resources"][name] for model in models if model.get("resources")]
        resources[name] = bootstrap_mean_ci(values) if values and None not in values else None
    return summary | {
        "resources": resources,
        "steps": models[0]["steps"],
        "weights": _describe_weights(next(iter(records.values()))),
    }


def _describe_weights(record: Mapping[str, Any]) -> str:
    """Which epoch's weights a figure is of; the last one's, where the recipe does not name the best on validation."""
    recipe = record["recipe"]
    keep_settings = [
        recipe["training"]["keep_weights"],
        *(stage.get("training", {}).get("keep_weights") for stage in recipe["stages"]),
    ]
    return "best on validation" if "best" in keep_settings else "last epoch"


def _gains_over_baselines(variant: Variant, records: Mapping[str, RecordsBySeed]) -> dict[str, Any]:
    """Gain over each of the other baselines: much of what a teacher gives, more steps or smooth labels may give too."""
    gains = {}
    for baseline in BASELINES:
        shared_seeds = [seed for seed in records[variant.name] if seed in records.get(baseline, {})]
        if baseline != BASELINE and shared_seeds:
            gain = paired_mean_ci(
                [100 * _test_accuracy(records[variant.name][seed], variant.name) for seed in shared_seeds],
                [100 * _test_accuracy(records[baseline][seed], baseline) for seed in shared_seeds],
            )
            gains[baseline] = {"gain": gain, "outcome": classify_gain_over_seeds(gain)}
    return gains


def _format_gains(gains: Mapping[str, Any]) -> str:
    """The same in words, to stand after the verdict."""
    outcome_texts = {
        "improves": "improves",
        "degrades": "degrades",
        "inconclusive": "no significant difference",
        "unknown": "unknown",
    }
    texts = []
    for baseline, entry in gains.items():
        gain, interval_text = entry["gain"], ""
        if gain["low"] is not None:
            low, high = min(gain["low"], gain["t_low"]), max(gain["high"], gain["t_high"])
            interval_text = f" ({format_points(low, digits=2)} to {format_points(high, digits=2)})"
        texts.append(
            f"{baseline} {format_points(gain['mean'], digits=2)} points{interval_text}, "
            f"{outcome_texts[entry['outcome']]}"
        )
    return f" Against the other baselines: {'; '.join(texts)}." if texts else ""


def _compare_to_baseline(
    folder: Path,
    variant: Variant,
    variant_records: RecordsBySeed,
    baseline_records: RecordsBySeed,
    teacher_records: RecordsBySeed,
) -> dict[str, Any]:
    """Gain over the baseline on the seeds that both have, and what it means."""
    shared_seeds = [seed for seed in variant_records if seed in baseline_records]
    if variant.name == BASELINE or not shared_seeds:
        return {"gain": None, "gap_recovered": None, "verdict": None}
    variant_accuracies = [100 * _test_accuracy(variant_records[seed], variant.name) for seed in shared_seeds]
    baseline_accuracies = [100 * _test_accuracy(baseline_records[seed], BASELINE) for seed in shared_seeds]
    gain = paired_mean_ci(variant_accuracies, baseline_accuracies) | _test_over_samples(
        folder, variant.name, shared_seeds
    )
    gap = None
    if variant.role != Role.TEACHER and all(seed in teacher_records for seed in shared_seeds) and teacher_records:
        teacher = [_test_accuracy(teacher_records[seed], "teacher") for seed in shared_seeds]
        gap = gap_recovered_ci(
            [accuracy / 100 for accuracy in baseline_accuracies],
            [accuracy / 100 for accuracy in variant_accuracies],
            teacher,
        )
    num_seeds_needed = required_num_seeds([a - b for a, b in zip(variant_accuracies, baseline_accuracies, strict=True)])
    outcome = classify_gain_over_seeds(gain)
    verdict_text = format_verdict_over_seeds(
        variant.name, BASELINE, gain, gap_recovered=gap, seeds_needed=num_seeds_needed
    )
    return {
        "gain": gain, "gap_recovered": gap,
        "verdict": {"outcome": outcome, "text": verdict_text, "seeds_needed": num_seeds_needed},
    }  # fmt: skip


def _test_accuracy(record: Mapping[str, Any], variant: str) -> float:
    return float(_find_model(record, variant)["test"]["metrics"]["accuracy"])


def _test_over_samples(folder: Path, variant: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The paired tests over test samples, where both trials have kept their answers."""
    pairs, mcnemar_results, fingerprints = list[tuple[Tensor, Tensor]](), list[dict[str, Any]](), set[str]()
    for seed in seeds:
        pair = []
        for name in (variant, BASELINE):
            trial_dir = folder / "trials" / name / str(seed)
            try:
                trial_predictions = load_predictions(trial_dir / "predictions.safetensors")
            except LimbeckError:
                return {"sample_interval": None, "mcnemar": []}
            record = _read_record(trial_dir / "record.json")
            model_name = next(key for key, model in record["models"].items() if model is _find_model(record, name))
            pair.append(trial_predictions.correct(model_name))
            fingerprints.add(trial_predictions.fingerprint)
        pairs.append((pair[0], pair[1]))
        mcnemar_results.append({"seed": seed, **mcnemar_test(*pair)})
    interval = paired_bootstrap_over_seeds(pairs, shared_samples=len(fingerprints) == 1)
    return {"sample_interval": {"low": interval["low"], "high": interval["high"]}, "mcnemar": mcnemar_results}


def _apply_holm(summaries: Mapping[str, Any], variants: Mapping[str, Variant]) -> None:
    """Of many variants that are compared some look good by chance: Holm's correction of their p-values."""
    gains = [
        summary["gain"]
        for name, summary in summaries.items()
        if variants[name].uses_teachers and summary["gain"] is not None
    ]
    gains = [gain for gain in gains if gain["p_value"] is not None]
    for gain, p_value in zip(
        gains, adjust_p_values_holm([gain["p_value"] for gain in gains]) if gains else [], strict=True
    ):
        gain["p_value_holm"] = p_value


def _select_best_variant(summaries: Mapping[str, Any], variants: Mapping[str, Variant]) -> dict[str, Any] | None:
    """The distilled variant that validation would choose; the test part chooses nothing."""
    validation_accuracies = {
        name: summaries[name]["val_accuracy"]["mean"] for name in summaries if variants[name].role == Role.DISTILLED
    }
    best = max(validation_accuracies, key=lambda name: validation_accuracies[name], default=None)
    return (
        None
        if best is None
        else {"variant": best, "criterion": "mean validation accuracy", "val_accuracy": validation_accuracies[best]}
    )
