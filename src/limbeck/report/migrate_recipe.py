"""Recipes of records of schema 2 with the keys of today: one table for each kind of section."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

__all__ = ["map_value", "migrate_recipe", "rename_keys"]

_BASELINES: Final = {
    "alone": "student_only", "direct": "no_assistants", "longer": "equal_time", "smoothed": "label_smoothing",
}  # fmt: skip
_HEAD: Final = {
    "data_seed": "split_seed", "threads": "num_threads", "guided": "assistant_mode", "combination": "ensemble",
    "teaching": "teacher_training", "control": "baselines",
}  # fmt: skip
_DATA: Final = {
    "labels": "num_labeled", "take": "num_samples", "only": "classes", "memory": "cache_mb", "validation": "val_split",
    "test": "test_split", "views": "augment",
}  # fmt: skip
_AUGMENT: Final = {"per_sample": "num_views", "per_decode": "repeats"}
_AUGMENT_USES: Final = {"Views": "Augmentation", "composite": "default_augmentation"}
_TRANSFORMS: Final = {"shift": "translate", "border": "padding_mode", "mode": "padding_mode", "probability": "p"}
_TRANSFORM_USES: Final = {"crop": "random_crop", "flip": "horizontal_flip", "resized_crop": "random_resized_crop"}
_NETWORK: Final = {"patch": "patch_size", "heads": "num_heads"}
_TEACHER: Final = {
    **_NETWORK, "engine": "backend", "stop": "train_fraction", "missing": "missing_classes", "answers": "coverage",
    "of": "fn", "returns": "output_type", "takes": "array_type", "sees": "input_type", "partial": "allow_missing",
    "input": "input_name", "output": "output_name", "rows": "batch_size",
}  # fmt: skip
_TEACHER_VALUES: Final = {
    "backend": {"folded": "fold_batchnorm"}, "missing_classes": {"refuse": "error"},
    "input_type": {"normalised": "normalized"}, "use": {"answers": "from_callable", "endpoint": "inference_server"},
}  # fmt: skip
_SELF_TEACHER_USES: Final = {
    "Averaged": "EMATeacher", "LastPrediction": "PreviousEpochTeacher", "LastBatch": "PreviousBatchTeacher",
}  # fmt: skip
_ENSEMBLE: Final = {"tau": "temperature", "by": "criterion"}
_ENSEMBLE_USES: Final = {
    "Confidence": "ConfidenceWeighted", "Random": "RandomTeacher", "Learned": "LearnedWeights",
}  # fmt: skip
_STAGE: Final = {"balance": "loss_weighting", "taps": "feature_layers", "frozen": "freeze"}
_WEIGHTING_USES: Final = {
    "LossRatio": "LossRatioWeighting", "Uncertainty": "UncertaintyWeighting", "Balance": "LossWeighting",
}  # fmt: skip
_LOSS: Final = {
    "tau": "temperature", "gather": "gather_distributed", "at": "layer", "deepest": "deepest_layer",
    "first": "first_layer", "last": "last_layer",
}  # fmt: skip
_LOSS_BY_USE: Final[Mapping[str, Mapping[str, str]]] = {
    "Contrast": {"size": "bank_size", "width": "embedding_dim"}, "Review": {"at": "layers", "width": "mid_channels"},
    "DeepToShallow": {"at": "layers"}, "Factor": {"paraphrase": "reconstruction_weight"},
    "Masked": {"hidden": "mask_ratio"}, "Mutual": {"peers": "num_peers"}, "Transformed": {"rows": "row_weighting"},
    "MultiLevel": {
        "taus": "temperatures", "instances": "instance_weight", "batch": "batch_weight", "classes": "class_weight",
    },
    "Variational": {"variance": "initial_variance"},
}  # fmt: skip
_LOSS_USES: Final = {
    "AttentionTransfer": "AttentionTransferLoss", "Boundary": "ABLoss", "Channel": "CWDLoss", "ClassWise": "CSKDLoss",
    "Contrast": "CRDLoss", "Correlation": "CCLoss", "CrossEntropy": "CrossEntropyLoss", "Decoupled": "DKDLoss",
    "DeepToShallow": "BYOTLoss", "Dist": "DISTLoss", "Factor": "FTLoss", "Flow": "FSPLoss", "Gram": "GramLoss",
    "Hint": "FitNetLoss", "JensenShannon": "JSDLoss", "LogitMSE": "LogitMSELoss", "Masked": "MGDLoss",
    "MultiLevel": "MLKDLoss", "Mutual": "DMLLoss", "Neuron": "NSTLoss", "Normalized": "NKDLoss", "Overhaul": "OFDLoss",
    "PearsonMap": "PKDLoss", "PriorPrediction": "PSKDLoss", "Probability": "PKTLoss", "RKDAngle": "RKDAngleLoss",
    "RKDDistance": "RKDDistanceLoss", "ReverseKL": "ReverseKLLoss", "Review": "ReviewKDLoss", "SimKD": "SimKDLoss",
    "Similarity": "SPLoss", "SoftTarget": "KDLoss", "Transformed": "TTMLoss", "Variational": "VIDLoss",
}  # fmt: skip
_TEMPERATURE: Final = {
    "tau": "temperature", "per": "granularity", "ramp": "warmup_fraction", "width": "hidden_dim", "by": "score",
    "sure": "confident", "unsure": "uncertain",
}  # fmt: skip
_TEMPERATURE_USES: Final = {"Fixed": "Constant", "Standardised": "LogitStandardization"}
_SCHEDULE: Final = {"factor": "gamma", "when": "milestone", "over": "fraction"}
_SCHEDULE_USES: Final = {
    "steps": "multistep", "switch": "step_change", "overall": "across_stages", "Steps": "MultiStep",
    "Switch": "StepChange", "Overall": "AcrossStages",
}  # fmt: skip
_TRAINING: Final = {
    "batch": "batch_size", "accumulate": "grad_accum_steps", "clip": "max_grad_norm", "ema": "ema_decay",
    "patience": "early_stopping_patience", "keep": "keep_weights", "workers": "num_workers",
    "sampling": "batch_pairing",
}  # fmt: skip
_PAIRINGS: Final = {"plain": "none", "classmates": "same_class", "again": "repeat_previous"}
_CACHE: Final = {
    "top": "top_k", "precision": "dtype", "features": "feature_dtype", "pool": "pool_factor",
}  # fmt: skip
_STUDY: Final = {"arms": "variants", "smoothing": "label_smoothing", "controls": "baselines"}


def migrate_recipe(recipe: Any) -> Any:
    """The recipe of a record of schema 2 with today's keys and words; names that a user chose stay.

    >>> migrate_recipe({"control": "alone", "stages": [{"objective": {"soft": {"use": "SoftTarget", "tau": 4.0}}}]})
    {'baselines': ['student_only'], 'stages': [{'objective': {'soft': {'use': 'KDLoss', 'temperature': 4.0}}}]}
    """
    sections: dict[str, Callable[[Any], Any]] = {
        "assistant_mode": lambda mode: map_value(mode, {"last": "sequential"}), "baselines": _migrate_baselines,
        "data": _migrate_data, "student": _migrate_network, "assistants": _each(_migrate_network),
        "peers": _each(_migrate_network), "teachers": _each(_migrate_teacher),
        "self_teachers": _each(_migrate_self_teacher), "ensemble": _migrate_ensemble,
        "teacher_training": _migrate_teacher_training, "stages": _each(_migrate_stage),
        "training": _migrate_training, "cache": _migrate_cache, "study": _migrate_study,
    }  # fmt: skip
    return _apply(rename_keys(recipe, _HEAD), sections)


def rename_keys(section: Any, names: Mapping[str, str]) -> Any:
    """``section`` with keys renamed; what is no mapping stays as it is.

    >>> rename_keys({"a": 1, "b": 2}, {"a": "x"}), rename_keys(None, {"a": "x"})
    ({'x': 1, 'b': 2}, None)
    """
    return {names.get(key, key): value for key, value in section.items()} if isinstance(section, Mapping) else section


def map_value(value: Any, words: Mapping[str, str]) -> Any:
    """The word that ``value`` is called today; anything that is not in ``words`` stays."""
    return words.get(value, value) if isinstance(value, str) else value


def _apply(section: Any, migrations: Mapping[str, Callable[[Any], Any]]) -> Any:
    if not isinstance(section, Mapping):
        return section
    return {key: migrations[key](value) if key in migrations else value for key, value in section.items()}


def _each(migrate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Applies ``migrate`` to every value of a mapping, or to every item of a list."""

    def migrate_each(section: Any) -> Any:
        if isinstance(section, Mapping):
            return {key: migrate(value) for key, value in section.items()}
        return [migrate(value) for value in section] if isinstance(section, list) else section

    return migrate_each


def _mapped(words: Mapping[str, str]) -> Callable[[Any], Any]:
    return lambda value: map_value(value, words)


def _migrate_baselines(control: Any) -> Any:
    names = [control] if isinstance(control, str) else control
    return [map_value(name, _BASELINES) for name in names if name != "none"] if isinstance(names, list) else names


def _migrate_data(data: Any) -> Any:
    return _apply(rename_keys(data, _DATA), {"augment": _migrate_augment})


def _migrate_augment(augment: Any) -> Any:
    migrations = {"use": _mapped(_AUGMENT_USES), "transforms": _each(_migrate_transform)}
    return _apply(rename_keys(augment, _AUGMENT), migrations)


def _migrate_transform(transform: Any) -> Any:
    return _apply(rename_keys(transform, _TRANSFORMS), {"use": _mapped(_TRANSFORM_USES)})


def _migrate_network(network: Any) -> Any:
    return rename_keys(network, _NETWORK)


def _migrate_teacher(teacher: Any) -> Any:
    if not isinstance(teacher, Mapping):
        return teacher
    names = dict(_TEACHER)
    # A number of classes, and the size of an MLP, are settings of the network.
    if not isinstance(teacher.get("classes"), int):
        names["classes"] = "class_names"
    if teacher.get("use") != "mlp":
        names["size"] = "input_size"
    return _apply(rename_keys(teacher, names), {key: _mapped(words) for key, words in _TEACHER_VALUES.items()})


def _migrate_self_teacher(teacher: Any) -> Any:
    return _apply(rename_keys(teacher, {"precision": "dtype"}), {"use": _mapped(_SELF_TEACHER_USES)})


def _migrate_ensemble(ensemble: Any) -> Any:
    return _apply(rename_keys(ensemble, _ENSEMBLE), {"use": _mapped(_ENSEMBLE_USES)})


def _migrate_teacher_training(stage: Any) -> Any:
    return _apply(_migrate_stage(stage), {"name": _mapped({"teaching": "teacher_training"})})


def _migrate_stage(stage: Any) -> Any:
    migrations: dict[str, Callable[[Any], Any]] = {
        "objective": _each(_migrate_loss), "training": _migrate_training, "loss_weighting": _migrate_weighting,
    }  # fmt: skip
    return _apply(rename_keys(stage, _STAGE), migrations)


def _migrate_weighting(weighting: Any) -> Any:
    return _apply(rename_keys(weighting, {"to": "reference"}), {"use": _mapped(_WEIGHTING_USES)})


def _migrate_loss(loss: Any) -> Any:
    if not isinstance(loss, Mapping):
        return loss
    renamed = rename_keys(loss, {**_LOSS, **_LOSS_BY_USE.get(str(loss.get("use")), {})})
    migrated = _apply(renamed, {"use": _mapped(_LOSS_USES), "temperature": _migrate_temperature})
    return {key: value if key == "temperature" else _migrate_schedule(value) for key, value in migrated.items()}


def _migrate_temperature(temperature: Any) -> Any:
    """A number, a policy, or a schedule."""
    if isinstance(temperature, Mapping) and temperature.get("use") in (*_SCHEDULE_USES, "cosine", "linear", "warmup"):
        return _migrate_schedule(temperature)
    migrated = _apply(rename_keys(temperature, _TEMPERATURE), {"use": _mapped(_TEMPERATURE_USES)})
    return _apply(migrated, {"schedule": _migrate_schedule})


def _migrate_schedule(schedule: Any) -> Any:
    if not (isinstance(schedule, Mapping) and "use" in schedule):
        return schedule
    migrated = _apply(rename_keys(schedule, _SCHEDULE), {"use": _mapped(_SCHEDULE_USES)})
    return {key: _migrate_schedule(value) for key, value in migrated.items()}


def _migrate_training(training: Any) -> Any:
    migrations: dict[str, Callable[[Any], Any]] = {
        "batch_pairing": _mapped(_PAIRINGS), "scheduler": lambda scheduler: rename_keys(scheduler, {"per": "interval"}),
    }  # fmt: skip
    return _apply(rename_keys(training, _TRAINING), migrations)


def _migrate_cache(cache: Any) -> Any:
    return _apply(rename_keys(cache, _CACHE), {"tail": _mapped({"renormalised": "renormalized"})})


def _migrate_study(study: Any) -> Any:
    def migrate_variant(overrides: Any) -> Any:
        if not isinstance(overrides, Mapping):
            return overrides
        return dict(_migrate_override(str(path), value) for path, value in overrides.items())

    return _apply(rename_keys(study, _STUDY), {"variants": _each(migrate_variant), "baselines": _migrate_baselines})


def _migrate_override(path: str, value: Any) -> tuple[str, Any]:
    """One override of a variant: laid out as a recipe, migrated, and read back.

    >>> _migrate_override("stages.0.objective.soft.tau", 40)
    ('stages.0.objective.soft.temperature', 40)
    """
    keys = path.split(".")
    for key in reversed(keys):
        value = [{}] * int(key) + [value] if key.isdecimal() else {key: value}
    section, migrated_keys = migrate_recipe(value), list[str]()
    for key in keys:
        if isinstance(section, Sequence):
            migrated_keys.append(key)
            section = section[-1]
        else:
            migrated_key, section = next(iter(section.items()))
            migrated_keys.append(migrated_key)
    return ".".join(migrated_keys), section
