"""``study.json``: what was asked of a study, how far each trial is, and what they have found so far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from limbeck._version import __version__
from limbeck.core.roles import Role
from limbeck.recipe import Recipe
from limbeck.recipe.schema import to_plain
from limbeck.recipe.study_schema import Study
from limbeck.utils.io import write_atomically
from limbeck.workflows.study.queue import Trial, TrialQueue
from limbeck.workflows.study.results import BASELINE, compute_results
from limbeck.workflows.study.variants import StudyContext, Variant, make_variants

__all__ = ["is_done", "list_trials", "write_study"]


def list_trials(recipe: Recipe) -> list[Trial]:
    """Every trial, seed by seed, the teacher first, so that nobody waits long for one."""
    return [Trial(name, seed) for seed in (recipe.study or Study()).seeds for name in make_variants(recipe)]


def is_done(folder: Path, trial: Trial) -> bool:
    """Whether the trial is finished."""
    return (folder / trial.path / "record.json").exists()


def write_study(recipe: Recipe, queue: TrialQueue, context: StudyContext) -> dict[str, Any]:
    """Write ``study.json`` from what the trials have found so far, and give what it holds."""
    variants, states, folder = make_variants(recipe), queue.states(), context.study_dir
    summary = {
        "schema": 2,
        "kind": "study",
        "limbeck": __version__,
        "name": recipe.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": to_plain(recipe),
        "seeds": list((recipe.study or Study()).seeds),
        "baseline": BASELINE,
        "keep_weights": recipe.training.keep_weights,
        "time_ratio": context.time_ratio,
        "num_shared_views": context.num_views,
        "variants": {variant.name: _variant_entry(variant, recipe, context) for variant in variants.values()},
        "trials": [_trial_entry(folder, trial, states) for trial in list_trials(recipe)],
        "results": compute_results(folder, variants, (recipe.study or Study()).seeds),
    }
    text = json.dumps(summary, indent=1, allow_nan=False)
    write_atomically(folder / "study.json", lambda path: path.write_text(text))
    return summary


def _variant_entry(variant: Variant, recipe: Recipe, context: StudyContext) -> dict[str, Any]:
    study_config, note = recipe.study or Study(), None
    if variant.role == Role.BASELINE_EQUAL_TIME:
        note = f"{context.time_ratio:.2f} times the steps, since a distilled step takes as many times as long"
    if variant.role == Role.BASELINE_LABEL_SMOOTHING:
        note = f"label smoothing {study_config.label_smoothing:g}"
    keep_setting = variant.overrides.get("training.keep_weights", recipe.training.keep_weights)
    if keep_setting == "best" and variant.role != Role.TEACHER:
        note = "; ".join(text for text in (note, "the best epoch by validation, not the last") if text)
    return {"role": variant.role, "title": variant.title, "overrides": dict(variant.overrides), "note": note}


def _trial_entry(folder: Path, trial: Trial, states: Mapping[Trial, tuple[str, str | None]]) -> dict[str, Any]:
    state, error = ("done", None) if is_done(folder, trial) else states.get(trial, ("waiting", None))
    return {"variant": trial.variant, "seed": trial.seed, "folder": trial.path, "state": state, "error": error}
