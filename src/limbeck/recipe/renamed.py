"""Keys, values and names that recipes had before version 0.3, and the names that they have now.

There are no aliases: a recipe with an old name is refused, and the error names the new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from limbeck.core.errors import LimbeckError
from limbeck.recipe.messages import join_path

__all__ = ["RENAMED_KEYS", "RENAMED_NAMES", "RENAMED_VALUES", "Renamed", "find_renamed", "reject_renamed", "reject_renamed_path"]  # fmt: skip

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
_NETWORKS_WITH_SIZE: Final = ("mlp",)


class Renamed(NamedTuple):
    """An old name in a recipe: the dotted path of the key, what stands there, and what to write."""

    path: str
    old: str
    new: str
    is_key: bool

    def __str__(self) -> str:
        if self.is_key:
            return f"{self.old} is now {self.new}; rename it"
        return f"{self.path}: {self.old} is now {self.new}; rename it"


def reject_renamed(recipe: Mapping[str, Any]) -> None:
    """Raise ``LimbeckError`` for the first old name in ``recipe``.

    >>> reject_renamed({"training": {"batch": 64}})
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: training.batch is now training.batch_size; rename it
    """
    for renamed in find_renamed(recipe):
        raise LimbeckError(str(renamed))


def reject_renamed_path(path: str) -> None:
    """Raise ``LimbeckError`` if an old key is on the dotted ``path`` of an override.

    >>> reject_renamed_path("stages.0.training.batch")
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: stages.0.training.batch is now stages.0.training.batch_size; rename it
    """
    for renamed in _find_in_path(path):
        raise LimbeckError(str(renamed))


def find_renamed(recipe: Any, part: str = "recipe", path: str = "") -> Iterator[Renamed]:
    """Every old name in a recipe, or in a ``part`` of it at the dotted ``path``.

    >>> [str(renamed) for renamed in find_renamed({"student": "small_cnn", "threads": 1})]
    ['threads is now num_threads; rename it']
    """
    if part.endswith("*"):
        items = recipe.items() if isinstance(recipe, Mapping) else enumerate(recipe) if _is_list(recipe) else ()
        for key, item in items:
            yield from find_renamed(item, part[:-1], join_path(path, key))
        return
    if part == "variant":
        yield from _find_in_variant(recipe, path)
        return
    use = recipe if isinstance(recipe, str) else recipe.get("use") if isinstance(recipe, Mapping) else None
    if isinstance(use, str) and (new := RENAMED_NAMES.get(part, {}).get(use)):
        yield Renamed(join_path(path, "use") if isinstance(recipe, Mapping) else path, use, new, is_key=False)
    if not isinstance(recipe, Mapping):
        return
    for key, value in recipe.items():
        key_path = join_path(path, key)
        new_key = _new_key(part, use, key, value)
        if new_key is not None:
            yield Renamed(key_path, key_path, join_path(path, new_key), is_key=True)
        yield from _find_in_value(part, new_key or key, value, key_path)


def _find_in_value(part: str, key: Any, value: Any, path: str) -> Iterator[Renamed]:
    for old, new in RENAMED_VALUES.get((part, str(key)), {}).items():
        if value == old or (_is_list(value) and old in value):
            yield Renamed(path, old, new, is_key=False)
    child = _child_part(part, str(key))
    if child and (child != "schedule" or isinstance(value, Mapping) or key in _SCHEDULE_KEYS):
        yield from find_renamed(value, child, path)


def _find_in_variant(changes: Any, path: str) -> Iterator[Renamed]:
    """The keys of a variant of a study are dotted paths of the recipe."""
    for setting, value in changes.items() if isinstance(changes, Mapping) else ():
        if not isinstance(setting, str):
            continue
        if renamed := next(_find_in_path(setting), None):
            old, new = join_path(path, renamed.old), join_path(path, renamed.new)
            yield Renamed(old, old, new, is_key=True)
            continue
        parent, _, key = setting.rpartition(".")
        yield from _find_in_value(_part_at(parent), key, value, join_path(path, setting))


def _find_in_path(path: str) -> Iterator[Renamed]:
    part, segments = "recipe", path.split(".")
    for index, key in enumerate(segments):
        new_key = RENAMED_KEYS.get(part, {}).get(key)
        if new_key is not None:
            new_path = ".".join([*segments[:index], new_key, *segments[index + 1 :]])
            yield Renamed(path, path, new_path, is_key=True)
        part = _child_part(part, new_key or key)


def _part_at(path: str) -> str:
    part = "recipe"
    for key in path.split(".") if path else ():
        part = _child_part(part, key)
    return part


def _child_part(part: str, key: str) -> str:
    if part.endswith("*"):
        return part[:-1]
    return "schedule" if part in _SCHEDULE_PARENTS else _PARTS.get(part, {}).get(key, "")


def _new_key(part: str, use: Any, key: Any, value: Any) -> str | None:
    """The new name of ``key`` in a part of the recipe, if it is an old one."""
    if not isinstance(key, str) or (part in _PLUGIN_PARTS and isinstance(use, str) and ":" in use):
        return None
    if part == "teacher":
        # A bare number of classes, and the size that a network is built for, are settings of the network.
        if key == "classes" and (isinstance(value, str) or _is_list(value)):
            return "class_names"
        if key == "size" and isinstance(use, str) and use not in _NETWORKS_WITH_SIZE and ":" not in use:
            return "input_size"
        if new := RENAMED_KEYS["model:small_vit"].get(key) if use == "small_vit" else None:
            return new
    new_use = RENAMED_NAMES.get(part, {}).get(use, use) if isinstance(use, str) else None
    return RENAMED_KEYS.get(f"{part}:{new_use}", {}).get(key) or RENAMED_KEYS.get(part, {}).get(key)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
