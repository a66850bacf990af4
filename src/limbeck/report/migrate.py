"""Migrates records of older schemas: one explicit step from each schema to the next.

Records before 3.1 are of classification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from limbeck.report.verdict import classify_interval
from limbeck.utils.renamed_keys import migrate_recipe

PHASE_NAMES: Final = {"alone": "baseline", "direct": "no_assistants"}
"""Models of a run, which are also the phases of its ``metrics.csv``: names of schema 2 and today's."""
VARIANT_NAMES: Final = {"alone": "student_only", "longer": "equal_time", "smoothed": "label_smoothing"}
"""Variants of a study, which are the models and phases of a trial: names of schema 2 and today's."""
STAGE_NAMES: Final = {"teaching": "teacher_training"}
COLUMN_NAMES: Final = {
    "images_per_second": "samples_per_second", "validation_top1": "val/accuracy", "validation_nll": "val/nll",
    "train_accuracy": "train/accuracy", "term": "loss", "lowest": "min", "highest": "max",
}  # fmt: skip
COLUMN_PREFIXES: Final = {
    "weight": "loss_weight", "share": "loss_share", "gradient": "grad_norm", "gradient_ratio": "grad_norm_ratio",
    "flatness": "teacher_entropy", "tau": "temperature", "tau_min": "temperature_min", "tau_max": "temperature_max",
}  # fmt: skip
"""Columns of the CSV files of schema 2, and prefixes of the columns by loss."""
_ROLES: Final = {**PHASE_NAMES, "longer": "baseline_equal_time", "smoothed": "baseline_label_smoothing"}
_METRICS: Final = {
    "top1": "accuracy", "top5": "top5_accuracy", "macro_f1": "macro_f1", "nll": "nll", "ece": "ece",
}  # fmt: skip
_METRIC_INFO: Final[dict[str, dict[str, Any]]] = {
    "accuracy": {"label": "Top-1 accuracy", "unit": "%", "higher_is_better": True, "phrase": "accuracy"},
    "top5_accuracy": {"label": "Top-5 accuracy", "unit": "%", "higher_is_better": True, "phrase": "top-5 accuracy"},
    "macro_f1": {"label": "Macro F1", "unit": "%", "higher_is_better": True, "phrase": "macro F1"},
    "nll": {"label": "NLL", "unit": "nats", "higher_is_better": False, "digits": 3},
    "ece": {
        "label": "Calibration error, ECE", "unit": "", "higher_is_better": False, "digits": 3, "phrase": "ECE",
    },
}  # fmt: skip
"""``metric_info`` of a classification record."""
_PRIMARY_METRIC: Final = "accuracy"
_MONITORED_METRICS: Final = ("accuracy", "nll")

_Migration = Callable[[Any], Any]
"""A migration of one value; a value of an unexpected type stays as it is."""


def migrate_record(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """``record`` in the current schema; what an older schema does not hold stays unknown.

    >>> migrate_record({"schema": 1, "name": "a", "models": {"alone": {"role": "alone", "seconds": 2.0}}})["models"]
    {'baseline': {'role': 'baseline', 'seconds': 2.0, 'resources': {'seconds': 2.0}}}
    """
    while (migration := MIGRATIONS.get(record.get("schema"))) is not None:
        record = migration(record)
    return _migrate_3_to_3_2(record) if record.get("schema_minor", 0) in (0, 1) else record


def _section(names: Mapping[str, str], **migrations: _Migration) -> _Migration:
    """Renames the keys of a mapping, and migrates the values of the renamed keys."""

    def migrate(section: Any) -> Any:
        if not isinstance(section, Mapping):
            return section
        renamed = {names.get(key, key): value for key, value in section.items()}
        return {key: migrations[key](value) if key in migrations else value for key, value in renamed.items()}

    return migrate


def _each(migrate: _Migration) -> _Migration:
    """Migrates every value of a mapping, or every item of a list."""

    def migrate_items(section: Any) -> Any:
        if isinstance(section, Mapping):
            return {key: migrate(value) for key, value in section.items()}
        return [migrate(value) for value in section] if isinstance(section, list) else section

    return migrate_items


def _word(names: Mapping[str, str]) -> _Migration:
    return lambda value: names.get(value, value) if isinstance(value, str) else value


def _migrate_1_to_2(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Schema 1 has no hash, no weights and no fidelity, and of the cost of a training only the wall time."""

    def add_spent(model: Any) -> Any:
        if not isinstance(model, Mapping) or model.get("spent") is not None or model.get("seconds") is None:
            return model
        return {**model, "spent": {"seconds": model["seconds"]}}

    return {**record, "schema": 2, "minor": 0, "models": _each(add_spent)(record.get("models"))}


def _migrate_title(title: Any) -> Any:
    prefix = "Student alone"
    is_old = isinstance(title, str) and title.startswith(prefix)
    return f"Student without a teacher{title.removeprefix(prefix)}" if is_old else title


def _migrate_split(split: Any) -> Any:
    """Metrics of one split become a mapping of their own."""
    if not isinstance(split, Mapping):
        return split
    metrics = {_METRICS[key]: value for key, value in split.items() if key in _METRICS}
    rest = {key: value for key, value in split.items() if key not in _METRICS}
    return {**_section(_NUM_SAMPLES, per_class=_ROWS, reliability=_ROWS)(rest), "metrics": metrics}


def _add_outcome(gain: Any) -> Any:
    if not isinstance(gain, Mapping):
        return gain
    interval = gain.get("interval_points")
    is_interval = isinstance(interval, list | tuple) and all(isinstance(end, int | float | None) for end in interval)
    return {**gain, "outcome": classify_interval(interval if is_interval else None)}


_NUM_SAMPLES: Final = {"examples": "num_samples"}
_ROWS = _each(_section(_NUM_SAMPLES))
_LATENCY = _section({"batch": "batch_size", "threads": "num_threads", "repeats": "num_repeats"})
_EXPORT = _section(_NUM_SAMPLES, latency_ms=_LATENCY)
_EXTRA_MODEL = _section({}, latency_ms=_LATENCY, validation=_migrate_split, onnx=_EXPORT)
_BACKEND_NAMES: Final = {"folded": "fold_batchnorm"}
_BACKEND = _section(
    {"asked": "requested", "engine": "backend", "batch": "input_shape", "threads": "num_threads",
     "milliseconds": "latency_ms", "difference": "max_difference", "left_out": "skipped"},
    backend=_word(_BACKEND_NAMES), requested=_word(_BACKEND_NAMES),
    **dict.fromkeys(("latency_ms", "max_difference", "skipped", "notes"), _section(_BACKEND_NAMES)),
)  # fmt: skip
_MODEL = _section(
    {"spent": "resources", "engine": "backend"}, role=_word(_ROLES), title=_migrate_title, backend=_BACKEND,
    latency_ms=_LATENCY, validation=_migrate_split, test=_migrate_split,
)  # fmt: skip
_STUDENT_FIDELITY = _section(
    {**_NUM_SAMPLES, "top1": "top1_agreement", "same_wrong": "same_error", "by_class": "per_class"},
    cka=_section({"student": "student_layers", "teacher": "teacher_layers", "values": "matrix",
                  "samples": "num_samples"}),
    per_class=_each(_section({**_NUM_SAMPLES, "same_wrong": "same_error", "other_wrong": "different_error",
                              "student_only": "student_only_wrong", "teacher_only": "teacher_only_wrong"})),
)  # fmt: skip
_VERDICT = _section(
    {"sentence": "text", "test": "statistical_test", "over_direct": "vs_no_assistants"},
    vs_no_assistants=lambda gain: _add_outcome(_section({"sentence": "text"})(gain)),
)
_RECORD = _section(
    {"minor": "schema_minor", "arm": "variant", "flags": "torch_flags", "processes": "distributed",
     "repeats": "reproduces", "sealed_test": "test_set", "exits": "early_exits", "identity": "config_hash",
     "hash": "record_hash"},
    variant=_section({"arm": "name"}, name=_word(VARIANT_NAMES)),
    torch_flags=_section({"interop_threads": "num_interop_threads", "variables": "environment_variables"}),
    command=_section({"settings": "overrides"}),
    distributed=_section({"number": "world_size", "batch_each": "batch_size_per_process",
                          "batch_together": "global_batch_size"}, strategy=_word({"one device": "single_device"})),
    machine=_section({"threads": "num_threads", "cores": "num_cores"}),
    reproduces=_section({"of": "name", "hash": "record_hash", "identity": "config_hash", "reads": "num_reads"}),
    data=_section({"train": "num_train", "labelled": "num_labeled", "validation": "num_val", "test": "num_test"}),
    test_set=_section({"reads": "num_reads", "opened": "opened_at", "examples": "num_samples"}),
    agreement=_section({"on": "split", "top1": "top1_agreement"}),
    fidelity=_section({"on": "split"}, students=_each(_STUDENT_FIDELITY)),
    files=_section({"answers.safetensors": "predictions.safetensors"}),
    cache=_each(_section({"answers": "num_outputs", "views": "num_views", "asked": "misses", "read": "hits",
                          "mended": "repaired", "complete": "is_complete"})),
    models=_each(_MODEL), recipe=migrate_recipe, verdict=lambda verdict: _add_outcome(_VERDICT(verdict)),
    export=_each(_EXPORT), peers=_each(_EXTRA_MODEL), early_exits=_each(_EXTRA_MODEL), ensemble=_EXTRA_MODEL,
)  # fmt: skip


def _migrate_2_to_3(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Schema 3 renames keys, roles and models, and holds metrics as a mapping.

    The hashes stay as they were written: they are those of the record of schema 2.
    """
    is_trial = record.get("kind") == "arm"
    names = VARIANT_NAMES if is_trial else PHASE_NAMES
    rename_models = _section({}, models=_section(names), fidelity=_section({}, students=_section(names)))
    migrated: dict[str, Any] = {**rename_models(_RECORD(record)), "schema": 3, "schema_minor": 0}
    return {**migrated, "kind": "trial"} if is_trial else migrated


_AGREEMENT: Final = _section({"top1_agreement": "prediction_agreement"})
_SPLIT: Final = _section(
    {}, per_class=_each(_section({"accuracy": "value"})), reliability=_each(_section({"accuracy": "fraction_correct"}))
)
_SPLITS: Final = _section({}, validation=_SPLIT, test=_SPLIT)
_GAIN_NAMES: Final = {"gain_points": "gain", "interval_points": "interval"}


def _migrate_3_to_3_2(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Names that are the same for every task, metrics in full, and examples in place of disagreements."""
    info, primary = _mapping(record.get("metric_info")), record.get("primary_metric") or _PRIMARY_METRIC
    if primary == _PRIMARY_METRIC:
        info = {name: {**_METRIC_INFO.get(name, {}), **entry} for name, entry in (info or _METRIC_INFO).items()}
    migrated = _section(
        {}, models=_each(_SPLITS), peers=_each(_SPLITS), early_exits=_each(_SPLITS), ensemble=_SPLITS,
        agreement=_AGREEMENT, fidelity=_section({}, students=_each(_AGREEMENT)),
        verdict=_section(_GAIN_NAMES, vs_no_assistants=_section(_GAIN_NAMES)),
    )(record)  # fmt: skip
    disagreements = migrated.pop("disagreements", None)
    examples = migrated.get("examples") or _migrate_disagreements(record, disagreements)
    task = {"name": "Classification", "supervised_loss": "CrossEntropyLoss", **_mapping(record.get("task"))}
    if task["name"] == "Classification":
        task.setdefault("pipeline_tag", "image-classification")
    names = _MONITORED_METRICS if primary == _PRIMARY_METRIC else (primary,)
    task.setdefault("monitored_metrics", {name: info[name] for name in names if name in info})
    return {
        **migrated, "schema_minor": 2, "metric_info": info, "primary_metric": primary, "task": task,
        "examples": examples,
    }  # fmt: skip


def _migrate_disagreements(record: Mapping[str, Any], samples: Any) -> list[dict[str, Any]]:
    """Samples with their classes as text; the confidence of a prediction follows its class."""
    roles = {_mapping(model).get("role"): name for name, model in _mapping(record.get("models")).items()}
    teacher = _mapping(record.get("fidelity")).get("teacher") or roles.get("teacher", "teacher")
    student, names = roles.get("distilled", "distilled"), _mapping(record.get("data")).get("classes")
    classes = names if isinstance(names, list) else []

    def class_name(index: Any) -> str:
        return str(classes[index]) if isinstance(index, int) and 0 <= index < len(classes) else str(index)

    def panel(sample: Mapping[str, Any], side: str, target: int | None) -> dict[str, Any]:
        label, confidence = sample.get(side), sample.get(f"{side}_confidence")
        note = "" if confidence is None else f" ({100 * confidence:.0f} %)"
        return {"text": class_name(label) + note, "correct": None if target is None else label == target}

    examples = []
    for sample in map(_mapping, samples if isinstance(samples, list) else ()):
        label = sample.get("target")
        target = label if isinstance(label, int) and label >= 0 else None
        predictions = {teacher: panel(sample, "teacher", target), student: panel(sample, "student", target)}
        examples.append(
            {"sample_id": sample.get("index"), "input": {"png": sample.get("png")}, "predictions": predictions,
             "target": {"text": "no label" if target is None else class_name(target)}}
        )  # fmt: skip
    return examples


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


MIGRATIONS: Final[Mapping[Any, Callable[[Mapping[str, Any]], Mapping[str, Any]]]] = {
    1: _migrate_1_to_2,
    2: _migrate_2_to_3,
}
"""The migration from each older schema to the next."""
