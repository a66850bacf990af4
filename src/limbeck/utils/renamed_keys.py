"""Keys, values and names that recipes had before version 0.3, and their current names.

A recipe with an old name is refused with an error that names the new one; there are no aliases. Recipes in records of
schema 2 are migrated by the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from limbeck.core.errors import LimbeckError

__all__ = [
    "RENAMED_KEYS",
    "RENAMED_NAMES",
    "RENAMED_VALUES",
    "Renamed",
    "find_renamed",
    "migrate_recipe",
    "reject_renamed",
    "reject_renamed_path",
]

RENAMED_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "recipe": {
        "data_seed": "split_seed", "threads": "num_threads", "guided": "assistant_mode", "combination": "ensemble",
        "teaching": "teacher_training", "control": "baselines",
    },
    "data": {
        "labels": "num_labeled", "take": "num_samples", "only": "classes", "memory": "cache_mb",
        "validation": "val_split", "test": "test_split", "views": "augment",
    },
    "augmentation": {"per_sample": "num_views", "per_decode": "repeats"},
    "transform:affine": {"shift": "translate", "border": "padding_mode"},
    "transform:random_crop": {"mode": "padding_mode"},
    "transform:horizontal_flip": {"probability": "p"},
    "transform:mixup": {"probability": "p"},
    "transform:cutmix": {"probability": "p"},
    "model:small_vit": {"patch": "patch_size", "heads": "num_heads"},
    "teacher": {"engine": "backend", "stop": "train_fraction", "missing": "missing_classes", "answers": "coverage"},
    "teacher:from_callable": {
        "of": "fn", "returns": "output_type", "takes": "array_type", "sees": "input_type", "partial": "allow_missing",
    },
    "teacher:inference_server": {"input": "input_name", "output": "output_name", "rows": "batch_size"},
    "teacher:onnx": {"input": "input_name", "output": "output_name"},
    "self_teacher:PreviousEpochTeacher": {"precision": "dtype"},
    "ensemble": {"tau": "temperature"},
    "ensemble:ConfidenceWeighted": {"by": "criterion"},
    "stage": {"balance": "loss_weighting", "taps": "feature_layers", "frozen": "freeze"},
    "loss_weighting:LossRatioWeighting": {"to": "reference"},
    "loss": {"gather": "gather_distributed", "tau": "temperature", "at": "layer"},
    "loss:BYOTLoss": {"at": "layers", "deepest": "deepest_layer"},
    "loss:ReviewKDLoss": {"at": "layers", "width": "mid_channels"},
    "loss:FSPLoss": {"first": "first_layer", "last": "last_layer"},
    "loss:CRDLoss": {"size": "bank_size", "width": "embedding_dim"},
    "loss:FTLoss": {"paraphrase": "reconstruction_weight"},
    "loss:MGDLoss": {"hidden": "mask_ratio"},
    "loss:MLKDLoss": {
        "taus": "temperatures", "instances": "instance_weight", "batch": "batch_weight", "classes": "class_weight",
    },
    "loss:DMLLoss": {"peers": "num_peers"},
    "loss:TTMLoss": {"rows": "row_weighting"},
    "loss:VIDLoss": {"variance": "initial_variance"},
    "schedule:multistep": {"factor": "gamma"},
    "schedule:MultiStep": {"factor": "gamma"},
    "schedule:step_change": {"when": "milestone"},
    "schedule:StepChange": {"when": "milestone"},
    "schedule:warmup": {"over": "fraction"},
    "schedule:Warmup": {"over": "fraction"},
    "schedule:Constant": {"tau": "temperature"},
    "schedule:Dynamic": {"tau": "temperature"},
    "schedule:LogitStandardization": {"tau": "temperature"},
    "schedule:Learned": {"per": "granularity", "ramp": "warmup_fraction", "width": "hidden_dim"},
    "schedule:PerSample": {"by": "score", "sure": "confident", "unsure": "uncertain"},
    "training": {
        "batch": "batch_size", "accumulate": "grad_accum_steps", "clip": "max_grad_norm", "ema": "ema_decay",
        "patience": "early_stopping_patience", "keep": "keep_weights", "workers": "num_workers",
        "sampling": "batch_pairing",
    },
    "scheduler": {"per": "interval"},
    "cache": {"top": "top_k", "precision": "dtype", "features": "feature_dtype", "pool": "pool_factor"},
    "study": {"arms": "variants", "smoothing": "label_smoothing", "controls": "baselines"},
}  # fmt: skip
"""Old key to new key, by part of the recipe; ``part:NAME`` are settings of the node that has ``use: NAME``."""

RENAMED_NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "augmentation": {"Views": "Augmentation", "composite": "default_augmentation"},
    "transform": {"crop": "random_crop", "flip": "horizontal_flip", "resized_crop": "random_resized_crop"},
    "teacher": {"answers": "from_callable", "endpoint": "inference_server"},
    "self_teacher": {
        "Averaged": "EMATeacher", "LastPrediction": "PreviousEpochTeacher", "LastBatch": "PreviousBatchTeacher",
    },
    "ensemble": {"Confidence": "ConfidenceWeighted", "Random": "RandomTeacher", "Learned": "LearnedWeights"},
    "loss": {
        "AttentionTransfer": "AttentionTransferLoss", "Boundary": "ABLoss", "Channel": "CWDLoss",
        "ClassWise": "CSKDLoss", "Contrast": "CRDLoss", "Correlation": "CCLoss", "CrossEntropy": "CrossEntropyLoss",
        "Decoupled": "DKDLoss", "DeepToShallow": "BYOTLoss", "Dist": "DISTLoss", "Factor": "FTLoss",
        "Flow": "FSPLoss", "Gram": "GramLoss", "Hint": "FitNetLoss", "JensenShannon": "JSDLoss",
        "LogitMSE": "LogitMSELoss", "Masked": "MGDLoss", "MultiLevel": "MLKDLoss", "Mutual": "DMLLoss",
        "Neuron": "NSTLoss", "Normalized": "NKDLoss", "Overhaul": "OFDLoss", "PearsonMap": "PKDLoss",
        "PriorPrediction": "PSKDLoss", "Probability": "PKTLoss", "RKDAngle": "RKDAngleLoss",
        "RKDDistance": "RKDDistanceLoss", "ReverseKL": "ReverseKLLoss", "Review": "ReviewKDLoss",
        "SimKD": "SimKDLoss", "Similarity": "SPLoss", "SoftTarget": "KDLoss", "Transformed": "TTMLoss",
        "Variational": "VIDLoss",
    },
    "loss_weighting": {
        "LossRatio": "LossRatioWeighting", "Uncertainty": "UncertaintyWeighting", "Balance": "LossWeighting",
    },
    "schedule": {
        "steps": "multistep", "switch": "step_change", "overall": "across_stages", "Steps": "MultiStep",
        "Switch": "StepChange", "Overall": "AcrossStages", "Fixed": "Constant", "Standardised": "LogitStandardization",
    },
}  # fmt: skip
"""What ``use`` named, by part of the recipe; ``schedule`` is for schedules and temperatures."""

RENAMED_VALUES: Final[Mapping[tuple[str, str], Mapping[str, str]]] = {
    ("recipe", "assistant_mode"): {"last": "sequential"},
    ("recipe", "baselines"): {"alone": "student_only", "direct": "no_assistants"},
    ("teacher", "backend"): {"folded": "fold_batchnorm"},
    ("teacher", "missing_classes"): {"refuse": "error"},
    ("teacher", "input_type"): {"normalised": "normalized"},
    ("training", "batch_pairing"): {"plain": "none", "classmates": "same_class", "again": "repeat_previous"},
    ("cache", "tail"): {"renormalised": "renormalized"},
    ("study", "baselines"): {"alone": "student_only", "longer": "equal_time", "smoothed": "label_smoothing"},
}
"""Old value to new value, by part of the recipe and (new) key; for a list, of its elements."""

_PARTS: Final[Mapping[str, Mapping[str, str]]] = {
    "recipe": {
        "data": "data", "student": "model", "teachers": "teacher*", "assistants": "model*", "peers": "model*",
        "self_teachers": "self_teacher*", "ensemble": "ensemble", "stages": "stage*", "teacher_training": "stage",
        "training": "training", "cache": "cache", "study": "study",
    },
    "data": {"augment": "augmentation"},
    "augmentation": {"transforms": "transform*"},
    "stage": {"objective": "loss*", "loss_weighting": "loss_weighting", "training": "training"},
    "training": {"scheduler": "scheduler"},
    "study": {"variants": "variant*"},
}  # fmt: skip
"""The parts below each part, by (new) key; ``*`` is for each element of a list or mapping."""
_SCHEDULE_PARENTS: Final = ("loss", "schedule")
_SCHEDULE_KEYS: Final = ("weight", "temperature", "schedule")
_PLUGIN_PARTS: Final = ("model", "self_teacher", "ensemble", "loss", "schedule", "augmentation", "transform", "data")


class Renamed(NamedTuple):
    """An old name in a recipe.

    Attributes:
        path: dotted path of the key.
        old: the old key path, value or name.
        new: the current one.
        is_key: whether a key was renamed, rather than its value.
    """

    path: str
    old: str
    new: str
    is_key: bool

    def __str__(self) -> str:
        return f"{'' if self.is_key else f'{self.path}: '}{self.old} is now {self.new}; rename it"


def reject_renamed(recipe: Mapping[str, Any]) -> None:
    """Raise ``LimbeckError`` for the first old name in ``recipe``.

    >>> reject_renamed({"training": {"batch": 64}})
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: training.batch is now training.batch_size; rename it
    """
    for renamed in find_renamed(recipe):
        raise LimbeckError(str(renamed))


def reject_renamed_path(path: str) -> None:
    """Raise ``LimbeckError`` if the dotted ``path`` of an override has an old key.

    >>> reject_renamed_path("stages.0.training.batch")
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: stages.0.training.batch is now stages.0.training.batch_size; rename it
    """
    if (new_path := _Renamer(is_record=False).rename_path(path)) != path:
        raise LimbeckError(str(Renamed(path, path, new_path, is_key=True)))


def find_renamed(recipe: Any) -> list[Renamed]:
    """Every old name in ``recipe``.

    >>> [str(renamed) for renamed in find_renamed({"student": "small_cnn", "threads": 1})]
    ['threads is now num_threads; rename it']
    """
    renamer = _Renamer(is_record=False)
    renamer.rename(recipe, "recipe", "")
    return renamer.renames


def migrate_recipe(recipe: Any) -> Any:
    """The recipe of a record of schema 2 with current keys, values and names; names chosen by the user stay.

    >>> migrate_recipe({"control": "alone", "stages": [{"objective": {"soft": {"use": "SoftTarget", "tau": 4.0}}}]})
    {'baselines': ['student_only'], 'stages': [{'objective': {'soft': {'use': 'KDLoss', 'temperature': 4.0}}}]}
    """
    migrated = _Renamer(is_record=True).rename(recipe, "recipe", "")
    if not isinstance(migrated, Mapping):
        return migrated
    for section in (migrated, migrated.get("study")):
        if isinstance(section, dict) and isinstance(names := section.get("baselines"), str | list):
            section["baselines"] = [name for name in ([names] if isinstance(names, str) else names) if name != "none"]
    training = migrated.get("teacher_training")
    if isinstance(training, dict) and training.get("name") == "teaching":
        training["name"] = "teacher_training"
    return migrated


class _Renamer:
    """Walks a recipe, renames its keys, values and ``use`` names, and collects what it renamed.

    With ``is_record`` the recipe is known to be an old one, so ambiguous keys (of plugin nodes, or on the path of an
    override) are renamed as well.
    """

    def __init__(self, *, is_record: bool) -> None:
        self.is_record = is_record
        self.renames: list[Renamed] = []

    def rename(self, value: Any, part: str, path: str) -> Any:
        """``value``, a ``part`` of a recipe at the dotted ``path``, renamed."""
        if part.endswith("*"):
            if isinstance(value, Mapping):
                return {key: self.rename(item, part[:-1], _join(path, key)) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return [self.rename(item, part[:-1], _join(path, i)) for i, item in enumerate(value)]
            return value
        if part == "variant":
            return self._rename_variant(value, path)
        is_node = isinstance(value, Mapping)
        use = value.get("use") if is_node else value
        new_use = RENAMED_NAMES.get(part, {}).get(use) if isinstance(use, str) else None
        if new_use is not None:
            self.renames.append(Renamed(_join(path, "use") if is_node else path, use, new_use, is_key=False))
        if not is_node:
            return new_use or value
        renamed = {}
        for key, item in value.items():
            key_path, new_key = _join(path, key), self._new_key(part, new_use or use, key, item)
            if new_key != key:
                self.renames.append(Renamed(key_path, key_path, _join(path, new_key), is_key=True))
            renamed[new_key] = self._rename_value(part, new_key, item, key_path)
        return renamed if new_use is None else {**renamed, "use": new_use}

    def rename_path(self, path: str) -> str:
        """A dotted path of an override with its old keys renamed."""
        part, keys = "recipe", []
        for key in path.split("."):
            keys.append(self._new_path_key(part, key))
            part = _child_part(part, keys[-1])
        return ".".join(keys)

    def _new_path_key(self, part: str, key: str) -> str:
        if new_key := RENAMED_KEYS.get(part, {}).get(key):
            return new_key
        candidates = {
            names[key] for scope, names in RENAMED_KEYS.items() if scope.startswith(f"{part}:") and key in names
        }
        return candidates.pop() if self.is_record and len(candidates) == 1 else key

    def _rename_variant(self, changes: Any, path: str) -> Any:
        """A variant of a study: its keys are dotted paths of the recipe."""
        if not isinstance(changes, Mapping):
            return changes
        renamed = {}
        for setting, value in changes.items():
            if not isinstance(setting, str):
                renamed[setting] = value
                continue
            old, new_setting = _join(path, setting), self.rename_path(setting)
            if new_setting != setting:
                self.renames.append(Renamed(old, old, _join(path, new_setting), is_key=True))
            part, (*parents, key) = "recipe", new_setting.split(".")
            for parent in parents:
                part = _child_part(part, parent)
            renamed[new_setting] = self._rename_value(part, key, value, old)
        return renamed

    def _rename_value(self, part: str, key: Any, value: Any, path: str) -> Any:
        for old, new in RENAMED_VALUES.get((part, str(key)), {}).items():
            if value == old:
                value = new
            elif isinstance(value, list | tuple) and old in value:
                value = [new if item == old else item for item in value]
            else:
                continue
            self.renames.append(Renamed(path, old, new, is_key=False))
        child = _child_part(part, str(key))
        if child and (child != "schedule" or isinstance(value, Mapping) or key in _SCHEDULE_KEYS):
            return self.rename(value, child, path)
        return value

    def _new_key(self, part: str, use: Any, key: Any, value: Any) -> Any:
        """The current name of ``key`` in a part of the recipe."""
        is_plugin = isinstance(use, str) and ":" in use
        if not isinstance(key, str):
            return key
        if part in _PLUGIN_PARTS and is_plugin:
            return "gather_distributed" if self.is_record and (part, key) == ("loss", "gather") else key
        if part == "teacher":
            # A number of classes, and the size of an MLP, are settings of the network.
            if key == "classes" and isinstance(value, str | list | tuple):
                return "class_names"
            if key == "size" and isinstance(use, str) and use != "mlp" and (self.is_record or not is_plugin):
                return "input_size"
            if use == "small_vit" and key in RENAMED_KEYS["model:small_vit"]:
                return RENAMED_KEYS["model:small_vit"][key]
        return RENAMED_KEYS.get(f"{part}:{use}", {}).get(key) or RENAMED_KEYS.get(part, {}).get(key, key)


def _child_part(part: str, key: str) -> str:
    if part.endswith("*"):
        return part[:-1]
    return "schedule" if part in _SCHEDULE_PARENTS else _PARTS.get(part, {}).get(key, "")


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
