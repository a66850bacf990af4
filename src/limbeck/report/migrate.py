"""Migrates records of older schemas: one explicit step from each schema to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from limbeck.report.record import METRIC_INFO, PRIMARY_METRIC
from limbeck.report.verdict import classify_interval
from limbeck.utils.renamed_keys import migrate_recipe

__all__ = ["OLDER_SCHEMAS", "PHASE_NAMES", "STAGE_NAMES", "VARIANT_NAMES", "migrate_record"]

PHASE_NAMES: Final = {"alone": "baseline", "direct": "no_assistants"}
"""Models of a run, which are also the phases of its ``metrics.csv``: names of schema 2 and today's."""
VARIANT_NAMES: Final = {"alone": "student_only", "longer": "equal_time", "smoothed": "label_smoothing"}
"""Variants of a study, which are the models and phases of a trial: names of schema 2 and today's."""
STAGE_NAMES: Final = {"teaching": "teacher_training"}
_ROLES: Final = {**PHASE_NAMES, "longer": "baseline_equal_time", "smoothed": "baseline_label_smoothing"}
_TITLES: Final = {
    "Student alone, equal wall time": "Student without a teacher, equal wall time",
    "Student alone, label smoothing": "Student without a teacher, label smoothing",
    "Student alone": "Student without a teacher",
}
_HEAD: Final = {
    "minor": "schema_minor", "arm": "variant", "flags": "torch_flags", "processes": "distributed",
    "repeats": "reproduces", "sealed_test": "test_set", "exits": "early_exits", "identity": "config_hash",
    "hash": "record_hash",
}  # fmt: skip
_SECTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "variant": {"arm": "name"},
    "torch_flags": {"interop_threads": "num_interop_threads", "variables": "environment_variables"},
    "command": {"settings": "overrides"},
    "distributed": {"number": "world_size", "batch_each": "batch_size_per_process",
                    "batch_together": "global_batch_size"},
    "machine": {"threads": "num_threads", "cores": "num_cores"},
    "reproduces": {"of": "name", "hash": "record_hash", "identity": "config_hash", "reads": "num_reads"},
    "data": {"train": "num_train", "labelled": "num_labeled", "validation": "num_val", "test": "num_test"},
    "test_set": {"reads": "num_reads", "opened": "opened_at", "examples": "num_samples"},
    "agreement": {"on": "split", "top1": "top1_agreement"},
    "fidelity": {"on": "split"},
    "verdict": {"sentence": "text", "test": "statistical_test", "over_direct": "vs_no_assistants"},
    "files": {"answers.safetensors": "predictions.safetensors"},
}  # fmt: skip
_MODEL: Final = {"spent": "resources", "engine": "backend"}
_BACKEND: Final = {
    "asked": "requested", "engine": "backend", "batch": "input_shape", "threads": "num_threads",
    "milliseconds": "latency_ms", "difference": "max_difference", "left_out": "skipped",
}  # fmt: skip
_BACKEND_NAMES: Final = {"folded": "fold_batchnorm"}
_LATENCY: Final = {"batch": "batch_size", "threads": "num_threads", "repeats": "num_repeats"}
_METRICS: Final = {
    "top1": "accuracy", "top5": "top5_accuracy", "macro_f1": "macro_f1", "nll": "nll", "ece": "ece",
}  # fmt: skip
_NUM_SAMPLES: Final = {"examples": "num_samples"}
_STUDENT_FIDELITY: Final = {
    **_NUM_SAMPLES, "top1": "top1_agreement", "same_wrong": "same_error", "by_class": "per_class",
}  # fmt: skip
_CLASS_ERRORS: Final = {
    **_NUM_SAMPLES, "same_wrong": "same_error", "other_wrong": "different_error", "student_only": "student_only_wrong",
    "teacher_only": "teacher_only_wrong",
}  # fmt: skip
_CKA: Final = {"student": "student_layers", "teacher": "teacher_layers", "values": "matrix", "samples": "num_samples"}
_CACHE: Final = {
    "answers": "num_outputs", "views": "num_views", "asked": "misses", "read": "hits", "mended": "repaired",
    "complete": "is_complete",
}  # fmt: skip


def migrate_record(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """``record`` in the current schema; what an older schema does not hold stays unknown.

    >>> migrate_record({"schema": 1, "name": "a", "models": {"alone": {"role": "alone", "seconds": 2.0}}})["models"]
    {'baseline': {'role': 'baseline', 'seconds': 2.0, 'resources': {'seconds': 2.0}}}
    """
    while (migration := _MIGRATIONS.get(record.get("schema"))) is not None:
        record = migration(record)
    return record


def _migrate_1_to_2(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Schema 1 has no hash, no weights and no fidelity, and of the cost of a training only the wall time."""

    def add_spent(model: Any) -> Any:
        if not isinstance(model, Mapping) or model.get("spent") is not None or model.get("seconds") is None:
            return model
        return {**model, "spent": {"seconds": model["seconds"]}}

    return {**record, "schema": 2, "minor": 0, "models": _migrate_each(add_spent)(record.get("models"))}


def _migrate_2_to_3(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Schema 3 renames keys, roles and models, and holds metrics as a mapping.

    The hashes stay as they were written: they are those of the record of schema 2.
    """
    migrated = dict(_rename_keys(record, _HEAD))
    for key, names in _SECTIONS.items():
        if key in migrated:
            migrated[key] = _rename_keys(migrated[key], names)
    is_trial = migrated.get("kind") == "arm"
    model_names = VARIANT_NAMES if is_trial else PHASE_NAMES
    migrated |= {
        "schema": 3, "schema_minor": 0, "metric_info": dict(METRIC_INFO), "primary_metric": PRIMARY_METRIC,
        "models": _rename_keys(_migrate_each(_migrate_model)(migrated.get("models")), model_names),
    }  # fmt: skip
    if is_trial:
        migrated["kind"] = "trial"

    def migrate_students(students: Any) -> Any:
        return _rename_keys(_migrate_each(_migrate_student_fidelity)(students), model_names)

    migrations: dict[str, Callable[[Any], Any]] = {
        "variant": _keys(name=_rename_word(VARIANT_NAMES)),
        "distributed": _keys(strategy=_rename_word({"one device": "single_device"})),
        "recipe": migrate_recipe, "verdict": _migrate_verdict, "fidelity": _keys(students=migrate_students),
        "export": _migrate_each(_migrate_export), "peers": _migrate_each(_migrate_extra_model),
        "early_exits": _migrate_each(_migrate_extra_model), "ensemble": _migrate_extra_model,
        "cache": _migrate_each(_renamed(_CACHE)),
    }  # fmt: skip
    return dict(_migrate_keys(migrated, migrations))


def _keys(**migrations: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda section: _migrate_keys(section, migrations)


def _renamed(names: Mapping[str, str]) -> Callable[[Any], Any]:
    return lambda section: _rename_keys(section, names)


def _migrate_model(model: Any) -> Any:
    return _keys(
        role=_rename_word(_ROLES), title=_migrate_title, backend=_migrate_backend, latency_ms=_renamed(_LATENCY),
        validation=_migrate_split, test=_migrate_split,
    )(_rename_keys(model, _MODEL))  # fmt: skip


def _migrate_title(title: Any) -> Any:
    if isinstance(title, str):
        for old, new in _TITLES.items():
            if title.startswith(old):
                return new + title.removeprefix(old)
    return title


def _migrate_backend(backend: Any) -> Any:
    word, keys = _rename_word(_BACKEND_NAMES), _renamed(_BACKEND_NAMES)
    return _keys(
        backend=word, requested=word, latency_ms=keys, max_difference=keys, skipped=keys, notes=keys
    )(_rename_keys(backend, _BACKEND))  # fmt: skip


def _migrate_split(split: Any) -> Any:
    """Metrics of one split become a mapping of their own."""
    if not isinstance(split, Mapping):
        return split
    metrics = {_METRICS[key]: value for key, value in split.items() if key in _METRICS}
    rest = _rename_keys({key: value for key, value in split.items() if key not in _METRICS}, _NUM_SAMPLES)
    rows = _migrate_each(_renamed(_NUM_SAMPLES))
    return {**_migrate_keys(rest, {"per_class": rows, "reliability": rows}), "metrics": metrics}


def _migrate_student_fidelity(fidelity: Any) -> Any:
    return _keys(cka=_renamed(_CKA), per_class=_migrate_each(_renamed(_CLASS_ERRORS)))(
        _rename_keys(fidelity, _STUDENT_FIDELITY)
    )


def _migrate_verdict(verdict: Any) -> Any:
    def add_outcome(gain: Any) -> Any:
        if not isinstance(gain, Mapping):
            return gain
        interval = gain.get("interval_points")
        is_interval = isinstance(interval, list | tuple) and all(
            isinstance(end, int | float | None) for end in interval
        )
        return {**gain, "outcome": classify_interval(interval if is_interval else None)}

    vs_no_assistants = _keys(vs_no_assistants=lambda gain: add_outcome(_rename_keys(gain, {"sentence": "text"})))
    return add_outcome(vs_no_assistants(verdict))


def _migrate_export(file: Any) -> Any:
    return _keys(latency_ms=_renamed(_LATENCY))(_rename_keys(file, _NUM_SAMPLES))


def _migrate_extra_model(model: Any) -> Any:
    return _keys(latency_ms=_renamed(_LATENCY), validation=_migrate_split, onnx=_migrate_export)(model)


def _rename_keys(section: Any, names: Mapping[str, str]) -> Any:
    """``section`` with renamed keys; anything but a mapping stays as it is.

    >>> _rename_keys({"a": 1, "b": 2}, {"a": "x"}), _rename_keys(None, {"a": "x"})
    ({'x': 1, 'b': 2}, None)
    """
    return {names.get(key, key): value for key, value in section.items()} if isinstance(section, Mapping) else section


def _rename_word(names: Mapping[str, str]) -> Callable[[Any], Any]:
    """A migration of one value: the new name of a word; anything that is not in ``names`` stays."""
    return lambda value: names.get(value, value) if isinstance(value, str) else value


def _migrate_keys(section: Any, migrations: Mapping[str, Callable[[Any], Any]]) -> Any:
    """``section`` with the value of each key migrated; anything but a mapping stays as it is."""
    if not isinstance(section, Mapping):
        return section
    return {key: migrations[key](value) if key in migrations else value for key, value in section.items()}


def _migrate_each(migrate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A migration of every value of a mapping, or every item of a list."""

    def migrate_items(section: Any) -> Any:
        if isinstance(section, Mapping):
            return {key: migrate(value) for key, value in section.items()}
        return [migrate(value) for value in section] if isinstance(section, list) else section

    return migrate_items


_MIGRATIONS: Final[Mapping[Any, Callable[[Mapping[str, Any]], Mapping[str, Any]]]] = {
    1: _migrate_1_to_2,
    2: _migrate_2_to_3,
}
OLDER_SCHEMAS: Final = tuple(_MIGRATIONS)
