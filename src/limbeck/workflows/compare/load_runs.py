"""Run folders and study folders as variants with seeds: what is to be compared, and that it may be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import Predictions, load_predictions
from limbeck.report.metrics_csv import TrainingCurve, load_curves
from limbeck.report.record import ModelRecord, Record
from limbeck.report.record_io import read_record

__all__ = ["TrialResult", "check_comparable", "load_runs", "load_study_trials", "read_study"]

_FILES = ("record.json", "metrics.csv", "predictions.safetensors")
_STATES = ("waiting", "running", "done", "failed")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """One variant with one seed: where it stands, and what is known of it.

    Attributes:
        variant: its name in the comparison.
        group: the recipe or study it belongs to; a variant is compared with the baseline of its own group.
        model_name: its name in the record and the predictions.
        record: ``None`` where it is not finished.
        state: as in ``study.json``.
    """

    variant: str
    group: str
    model_name: str
    role: str
    seed: int | None
    folder: Path
    record: Record | None = None
    predictions: Predictions | None = None
    curve: TrainingCurve | None = None
    state: str = "done"
    error: str = ""

    @property
    def model_entry(self) -> ModelRecord | None:
        """The model in the record."""
        return self.record.models[self.model_name] if self.record else None


def load_runs(folders: Sequence[Path]) -> list[TrialResult]:
    """All models of finished runs and of the trials of studies.

    Runs of one recipe are seeds of the same variants. Where there are several recipes, the name of each stands before
    its variants, or the folder of its first run where two recipes have one name.

    Raises:
        LimbeckError: a folder holds no finished run, or the same recipe and seed is there twice.
    """
    trials = [trial for folder in folders for trial in _load_folder(Path(folder))]
    seen_folders: dict[tuple[str, str, int | None], Path] = {}
    for trial in trials:
        earlier_folder = seen_folders.setdefault((trial.group, trial.variant, trial.seed), trial.folder)
        if earlier_folder != trial.folder:
            raise LimbeckError(
                f"{earlier_folder} and {trial.folder} are the same recipe with the same seed {trial.seed}: give one "
                "of them, since "
                "the same run twice is no second seed"
            )
    groups = list(dict.fromkeys(trial.group for trial in trials))
    if len(groups) == 1:
        return trials
    names = {group: _group_name(group) for group in groups}
    duplicate_names = [name for name in names.values() if list(names.values()).count(name) > 1]
    first_folders = {group: next(trial.folder for trial in trials if trial.group == group) for group in groups}
    prefixes = {group: str(first_folders[group]) if name in duplicate_names else name for group, name in names.items()}
    return [replace(trial, variant=f"{prefixes[trial.group]}/{trial.variant}") for trial in trials]


def read_study(folder: Path) -> dict[str, Any]:
    """The contents of ``study.json``.

    Raises:
        LimbeckError: it is not what this limbeck writes.
    """
    path = folder / "study.json"
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
        is_supported = study["schema"] == 2 and study["kind"] == "study"
        is_well_formed = isinstance(study["variants"], dict) and all(
            isinstance(trial["variant"], str) and isinstance(trial["folder"], str) and trial["state"] in _STATES
            for trial in study["trials"]
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LimbeckError(f"{path} cannot be read as a study: run limbeck study again to write it") from error
    if not (is_supported and is_well_formed):
        raise LimbeckError(f"{path} is not what this limbeck writes (schema 2): run limbeck study again")
    return dict(study)


def load_study_trials(folder: Path, study: Mapping[str, Any]) -> list[TrialResult]:
    """Its trials, finished or not; a trial whose files cannot be read yet counts as running, and says so.

    Raises:
        LimbeckError: a trial stands outside the folder.
    """
    return [_load_trial(folder, study, trial_entry) for trial_entry in study["trials"]]


def check_comparable(trials: Sequence[TrialResult]) -> list[str]:
    """What a reader must know about the data; refuses figures that were measured on different test samples.

    Raises:
        LimbeckError: classes differ, or two variants of one seed were tested on other samples.
    """
    finished_trials = [trial for trial in trials if trial.record]
    reference, notes = None, []
    first_by_seed: dict[int | None, TrialResult] = {}
    for trial in finished_trials:
        assert trial.record
        data_key = (trial.record.data.name, trial.record.data.classes)
        reference = reference or (data_key, trial)
        first_of_seed = first_by_seed.setdefault(trial.seed, trial)
        if data_key != reference[0] or not _is_same_test_set(trial, first_of_seed):
            conflicting = first_of_seed if data_key == reference[0] else reference[1]
            raise LimbeckError(
                f"{conflicting.folder} and {trial.folder} were tested on different data "
                f"({_format_data(conflicting)}; {_format_data(trial)}), so a "
                "difference between them says nothing: compare each with runs on the same data"
            )
        assert first_of_seed.record
        if trial.record.data.fingerprint != first_of_seed.record.data.fingerprint:
            notes.append(
                f"{trial.variant} and {first_of_seed.variant} were tested on the same samples and trained on "
                "different data."
            )
    if len({trial.record.data.fingerprint for trial in first_by_seed.values() if trial.record}) > 1:
        notes.append("Each seed cut the data anew, so the spread over seeds holds that of the data as well.")
    return list(dict.fromkeys(notes))


def _load_folder(folder: Path) -> list[TrialResult]:
    if (folder / "study.json").exists():
        study = read_study(folder)
        return [trial for trial in load_study_trials(folder, study) if trial.record]
    record = read_record(folder / "record.json")
    run_predictions, learning_curves = _load_predictions(folder), load_curves(folder / "metrics.csv")
    if record.variant is not None:
        model = _find_model_name(record, record.variant.name)
        return [
            TrialResult(
                variant=record.variant.name,
                group=f"{record.variant.study}\n",
                model_name=model,
                role=record.models[model].role,
                seed=record.variant.seed,
                folder=folder,
                record=record,
                predictions=run_predictions,
                curve=learning_curves.get(model),
            )
        ]
    recipe = {key: value for key, value in record.recipe.items() if key != "seed" and value is not None}
    group = f"{record.name}\n{json.dumps(recipe, sort_keys=True, default=str)}"
    return [
        TrialResult(
            variant=name,
            group=group,
            model_name=name,
            role=model.role,
            seed=record.seed,
            folder=folder,
            record=record,
            predictions=run_predictions,
            curve=learning_curves.get(name),
        )
        for name, model in record.models.items()
    ]


def _load_trial(folder: Path, study: Mapping[str, Any], trial_entry: Mapping[str, Any]) -> TrialResult:
    variant, trial_dir = trial_entry["variant"], folder / trial_entry["folder"]
    # Also each file: a link could show a stranger's as this study's own.
    if not all(
        path.resolve().is_relative_to(folder.resolve()) for path in (trial_dir, *(trial_dir / name for name in _FILES))
    ):
        raise LimbeckError(f"{folder} has a trial outside of itself ({trial_entry['folder']}): move the trial into it")
    role = str((study["variants"].get(variant) or {}).get("role", "distilled"))
    trial = TrialResult(
        variant=variant,
        group=f"{study.get('name', folder.name)}\n",
        model_name=variant,
        role=role,
        seed=trial_entry.get("seed"),
        folder=trial_dir,
        state=trial_entry["state"],
        error=trial_entry.get("error") or "",
    )
    try:
        learning_curves = load_curves(trial_dir / "metrics.csv")
        curve = learning_curves.get(variant) or next(iter(learning_curves.values()), None)
        if trial_entry["state"] != "done":
            return replace(trial, curve=curve)
        record = read_record(trial_dir / "record.json")
        model = _find_model_name(record, variant)
        return replace(
            trial,
            record=record,
            model_name=model,
            predictions=_load_predictions(trial_dir),
            curve=learning_curves.get(model, curve),
            role=record.models[model].role,
        )
    except LimbeckError as error:
        # The others are shown all the same; one that trains may be whole at the next look.
        state = "failed" if trial_entry["state"] == "done" else trial_entry["state"]
        return replace(trial, state=state, error=trial.error or str(error))


def _find_model_name(record: Record, variant: str) -> str:
    """The model of a variant: by its name, else the one that is best on validation."""
    if variant in record.models:
        return variant

    def validation_accuracy(name: str) -> float:
        metrics = record.models[name].validation
        accuracy = metrics.metrics.get("accuracy") if metrics else None
        return 0.0 if accuracy is None else accuracy

    if not record.models:
        raise LimbeckError(f"the record of the variant {variant} holds no model: train it again")
    return max(record.models, key=validation_accuracy)


def _load_predictions(folder: Path) -> Predictions | None:
    path = folder / "predictions.safetensors"
    return load_predictions(path) if path.exists() else None


def _is_same_test_set(first: TrialResult, second: TrialResult) -> bool:
    if first.predictions and second.predictions and first.predictions.fingerprint and second.predictions.fingerprint:
        return (first.predictions.fingerprint, first.predictions.split) == (
            second.predictions.fingerprint,
            second.predictions.split,
        )
    assert first.record
    assert second.record
    return first.record.data.fingerprint == second.record.data.fingerprint


def _format_data(trial: TrialResult) -> str:
    assert trial.record
    data = trial.record.data
    return f"{data.name or 'unnamed'}, {len(data.classes)} classes, fingerprint {data.fingerprint[:8] or 'unknown'}"


def _group_name(group: str) -> str:
    return group.partition("\n")[0]
