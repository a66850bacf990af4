"""Loads run folders and study folders as variants with seeds, and checks that they can be compared."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, final

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import Predictions, load_predictions
from limbeck.report.metrics_csv import TrainingCurve, load_curves
from limbeck.report.record import Record
from limbeck.report.record_io import read_record
from limbeck.report.record_sections import DataInfo, ModelRecord, SplitMetrics
from limbeck.utils.io import parse_json, require_regular_file

__all__ = ["TrialResult", "TrialsBySeed", "check_comparable", "load_runs", "load_study_trials", "read_study"]

_FILES = ("record.json", "metrics.csv", "predictions.safetensors")
_STATES = ("waiting", "running", "done", "failed")
_Group: TypeAlias = tuple[str, str]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """One variant with one seed.

    Attributes:
        variant: its name in the comparison.
        group: name and settings of the recipe, or the name of the study; a variant is compared within its group.
        model_name: its name in the record and the predictions.
        record: ``None`` if it is not finished.
        state: as in ``study.json``.
    """

    variant: str
    group: _Group
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

    @property
    def predicted_labels(self) -> Tensor | None:
        """``[samples]``; ``None`` without saved predictions."""
        return self.predictions.predicted.get(self.model_name) if self.predictions else None

    def metrics(self, split: str) -> SplitMetrics | None:
        """All metrics on ``split``."""
        entry = self.model_entry
        return None if entry is None else entry.test if split == "test" else entry.validation

    def metric(self, split: str, name: str) -> float | None:
        """One metric on ``split``; ``None`` if it is unknown."""
        metrics = self.metrics(split)
        return metrics.metrics.get(name) if metrics else None


TrialsBySeed: TypeAlias = Mapping[int | None, TrialResult]
"""The finished trials of one variant by seed."""


def load_runs(folders: Sequence[Path]) -> list[TrialResult]:
    """All models of finished runs and of the finished trials of studies.

    Runs of one recipe are seeds of the same variants. With several recipes, variants are named ``RECIPE/VARIANT``, or
    ``FOLDER/VARIANT`` with the end of the path of the first run where two recipes have one name.

    Raises:
        LimbeckError: a folder has no finished run, or two runs have the same recipe and seed.
    """
    trials = [trial for folder in folders for trial in _load_folder(folder)]
    first_folders: dict[Any, Path] = {}
    for trial in trials:
        key = trial.group, trial.variant, trial.seed
        if key in first_folders:
            raise LimbeckError(
                f"{first_folders[key]} and {trial.folder} have the same recipe and the same seed {trial.seed}: give "
                "one of them, since one run is one seed"
            )
        first_folders[key] = trial.folder
    groups = {trial.group: trial.folder for trial in reversed(trials)}
    if len(groups) == 1:
        return trials
    counts = Counter(name for name, _ in groups)
    names = {group: group[0] for group in groups if counts[group[0]] == 1}
    prefixes = names | _short_folder_names(
        {group: folder for group, folder in groups.items() if group not in names}, taken=names.values()
    )
    return [replace(trial, variant=f"{prefixes[trial.group]}/{trial.variant}") for trial in trials]


def _short_folder_names(folders: Mapping[_Group, Path], taken: Collection[str]) -> dict[_Group, str]:
    """The last parts of each folder, as many as make all names distinct.

    >>> _short_folder_names({("a", "1"): Path("/home/me/runs/one"), ("a", "2"): Path("/home/me/old/two")}, taken=[])
    {('a', '1'): 'one', ('a', '2'): 'two'}
    """
    paths = {group: folder.resolve() for group, folder in folders.items()}
    for length in range(1, max((len(path.parts) for path in paths.values()), default=0) + 1):
        names = {group: "/".join(path.parts[-length:]) for group, path in paths.items()}
        if len({*names.values(), *taken}) == len(names) + len(taken):
            return names
    return {group: str(path) for group, path in paths.items()}


def read_study(folder: Path) -> dict[str, Any]:
    """The contents of ``study.json``.

    Raises:
        LimbeckError: it cannot be read, or has another schema.
    """
    path = folder / "study.json"
    try:
        study: dict[str, Any] = parse_json(require_regular_file(path).read_text(encoding="utf-8"))
        is_valid = (study["schema"], study["kind"]) == (2, "study") and isinstance(study["variants"], dict)
        is_valid &= all(isinstance(variant, dict) for variant in study["variants"].values())
        is_valid &= all(
            isinstance(trial["variant"], str) and isinstance(trial["folder"], str) and trial["state"] in _STATES
            and isinstance(trial.get("seed"), int | None) and isinstance(trial.get("error"), str | None)
            for trial in study["trials"]
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LimbeckError(
            f"{path} cannot be read as a study: remove it, and limbeck study --resume writes it again"
        ) from error
    if not is_valid:
        raise LimbeckError(f"{path} is not what this limbeck writes (schema 2): run limbeck study again")
    return study


def load_study_trials(folder: Path, study: Mapping[str, Any]) -> list[TrialResult]:
    """The trials of a study, finished or not; one with unreadable files has the state ``failed`` and the error.

    Raises:
        LimbeckError: a trial is outside of the folder.
    """
    return [_load_trial(folder, study, entry) for entry in study["trials"]]


def check_comparable(trials: Sequence[TrialResult]) -> list[str]:
    """Notes on differences in the training data.

    Raises:
        LimbeckError: the primary metrics or the classes differ, or two variants of one seed were tested on different
            samples.
    """
    _check_same_metric([trial for trial in trials if trial.record])
    finished = [(trial, trial.record.data) for trial in trials if trial.record]
    first_by_seed = {trial.seed: (trial, data) for trial, data in reversed(finished)}
    notes = []
    for trial, data in finished:
        first_of_seed, first_data = first_by_seed[trial.seed]
        reference_data = finished[0][1]
        is_same_data = (data.name, data.classes) == (reference_data.name, reference_data.classes)
        a, b = trial.predictions, first_of_seed.predictions
        if a and b and a.fingerprint and b.fingerprint:
            is_same_test_set = (a.fingerprint, a.split) == (b.fingerprint, b.split)
        else:
            is_same_test_set = data.fingerprint == first_data.fingerprint
        if not (is_same_data and is_same_test_set):
            conflict, conflict_data = first_by_seed[trial.seed] if is_same_data else finished[0]
            raise LimbeckError(
                f"{conflict.folder} and {trial.folder} were tested on different data ({_format_data(conflict_data)}; "
                f"{_format_data(data)}), so their difference has no meaning: compare each with runs on the same data"
            )
        if data.fingerprint != first_data.fingerprint:
            notes.append(
                f"{trial.variant} and {first_of_seed.variant} were tested on the same samples and trained on different "
                "data."
            )
    if len({data.fingerprint for _, data in first_by_seed.values()}) > 1:
        notes.append("Each seed splits the data anew, so the spread over seeds includes that of the data.")
    return list(dict.fromkeys(notes))


def _check_same_metric(trials: Sequence[TrialResult]) -> None:
    for trial in trials:
        first, record = trials[0].record, trial.record
        if first and record and record.primary_spec.name != first.primary_spec.name:
            raise LimbeckError(
                f"{trials[0].folder} and {trial.folder} must have one primary metric, got {first.primary_spec.text} "
                f"and {record.primary_spec.text}: compare runs of one task"
            )


def _load_folder(folder: Path) -> list[TrialResult]:
    if (folder / "study.json").exists():
        return [trial for trial in load_study_trials(folder, read_study(folder)) if trial.record]
    record = read_record(folder / "record.json")
    predictions, curves = _load_predictions(folder), load_curves(folder / "metrics.csv")
    if record.variant is not None:
        group = (record.variant.study, "")
        variants = {record.variant.name: _find_model_name(record, record.variant.name)}
    else:
        recipe = {key: value for key, value in record.recipe.items() if key != "seed" and value is not None}
        group = (record.name, json.dumps(recipe, sort_keys=True, default=str))
        variants = {name: name for name in record.models}
    return [
        TrialResult(
            variant=variant,
            group=group,
            model_name=name,
            role=record.models[name].role,
            seed=record.variant.seed if record.variant else record.seed,
            folder=folder,
            record=record,
            predictions=predictions,
            curve=curves.get(name),
        )
        for variant, name in variants.items()
    ]


def _load_trial(folder: Path, study: Mapping[str, Any], entry: Mapping[str, Any]) -> TrialResult:
    variant, trial_dir = entry["variant"], folder / entry["folder"]
    # A link out of the study could show the files of another one.
    paths = (trial_dir, *(trial_dir / name for name in _FILES))
    if not all(_is_inside(path, folder) for path in paths):
        raise LimbeckError(f"{folder} has a trial outside of itself ({entry['folder']}): move the trial into it")
    trial = TrialResult(
        variant=variant,
        group=(str(study.get("name", folder.name)), ""),
        model_name=variant,
        role=str((study["variants"].get(variant) or {}).get("role", "distilled")),
        seed=entry.get("seed"),
        folder=trial_dir,
        state=entry["state"],
        error=entry.get("error") or "",
    )
    is_done = trial.state == "done"
    try:
        curves = load_curves(trial_dir / "metrics.csv")
        trial = replace(trial, curve=curves.get(variant) or next(iter(curves.values()), None))
        if not is_done:
            return trial
        record = read_record(trial_dir / "record.json")
        model_name = _find_model_name(record, variant)
        return replace(
            trial,
            record=record,
            model_name=model_name,
            predictions=_load_predictions(trial_dir),
            curve=curves.get(model_name, trial.curve),
            role=record.models[model_name].role,
        )
    except LimbeckError as error:
        return replace(trial, state="failed" if is_done else trial.state, error=trial.error or str(error))


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether ``path``, with its links followed, is in ``folder``; a link in a circle is nowhere."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def _find_model_name(record: Record, variant: str) -> str:
    """The model with the name of the variant, else the best one on validation."""
    if variant in record.models:
        return variant
    if not record.models:
        raise LimbeckError(f"the record of the variant {variant} holds no model: train it again")

    def validation_value(name: str) -> float:
        metrics, spec = record.models[name].validation, record.primary_spec
        value = metrics.metrics.get(spec.name) if metrics else None
        return -math.inf if value is None else spec.sign * value

    return max(record.models, key=validation_value)


def _load_predictions(folder: Path) -> Predictions | None:
    path = folder / "predictions.safetensors"
    return load_predictions(path) if path.exists() else None


def _format_data(data: DataInfo) -> str:
    classes = f"{len(data.classes)} classes, " if data.classes else ""
    return f"{data.name or 'unnamed'}, {classes}fingerprint {data.fingerprint[:8] or 'unknown'}"
