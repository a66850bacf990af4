"""Keys, values and names that recipes had before version 0.3, and their current names, from ``renamed_keys.yaml``.

A recipe with an old name is refused with an error that names the new one; there are no aliases. Recipes in records of
schema 2 are migrated by the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from limbeck.core.errors import LimbeckError

__all__ = [
    "RENAMED_KEYS",
    "RENAMED_NAMES",
    "RENAMED_VALUES",
    "find_renamed",
    "migrate_recipe",
    "reject_renamed",
    "reject_renamed_path",
]

_TABLE: Final = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
RENAMED_KEYS: Final[Mapping[str, Mapping[str, str]]] = _TABLE["keys"]
RENAMED_NAMES: Final[Mapping[str, Mapping[str, str]]] = _TABLE["names"]
RENAMED_VALUES: Final[Mapping[str, Mapping[str, Mapping[str, str]]]] = _TABLE["values"]

_SCHEDULE_PARENTS: Final = ("loss", "schedule")
_SCHEDULE_KEYS: Final = ("weight", "temperature", "schedule")
_PLUGIN_PARTS: Final = ("model", "self_teacher", "ensemble", "loss", "schedule", "augmentation", "transform", "data")


def reject_renamed(recipe: Mapping[str, Any]) -> None:
    """Raise ``LimbeckError`` for the first old name in ``recipe``.

    >>> reject_renamed({"training": {"batch": 64}})
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: training.batch is now training.batch_size; rename it
    """
    for message in find_renamed(recipe):
        raise LimbeckError(message)


def reject_renamed_path(path: str) -> None:
    """Raise ``LimbeckError`` if the dotted ``path`` of an override has an old key."""
    if (new_path := _Renamer(is_record=False).rename_path(path)) != path:
        raise LimbeckError(f"{path} is now {new_path}; rename it")


def find_renamed(recipe: Any) -> list[str]:
    """A message for every old name in ``recipe``.

    >>> find_renamed({"student": "small_cnn", "threads": 1})
    ['threads is now num_threads; rename it']
    """
    renamer = _Renamer(is_record=False)
    renamer.rename(recipe, "recipe", "")
    return renamer.messages


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
    """Walks a recipe, renames its keys, values and ``use`` names, and collects a message for each.

    With ``is_record`` the recipe is known to be an old one, so ambiguous keys (of plugin nodes, or on the path of an
    override) are renamed as well.
    """

    def __init__(self, *, is_record: bool) -> None:
        self.is_record = is_record
        self.messages: list[str] = []

    def rename(self, value: Any, part: str, path: str) -> Any:
        """``value``, a ``part`` of a recipe at the dotted ``path``, renamed."""
        if part.endswith("*"):
            if isinstance(value, Mapping):
                return {key: self.rename(item, part[:-1], _join(path, key)) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return [self.rename(item, part[:-1], _join(path, i)) for i, item in enumerate(value)]
            return value
        is_node = isinstance(value, Mapping)
        if part == "variant":
            return dict(self._rename_change(key, item, path) for key, item in value.items()) if is_node else value
        use = value.get("use") if is_node else value
        new_use = RENAMED_NAMES.get(part, {}).get(use) if isinstance(use, str) else None
        if new_use is not None:
            self._add_message(f"{_join(path, 'use') if is_node else path}: {use}", new_use)
        if not is_node:
            return new_use or value
        renamed = {}
        for key, item in value.items():
            key_path, new_key = _join(path, key), self._new_key(part, new_use or use, key, item)
            if new_key != key:
                self._add_message(key_path, _join(path, new_key))
            renamed[new_key] = self._rename_value(part, new_key, item, key_path)
        return renamed if new_use is None else {**renamed, "use": new_use}

    def rename_path(self, path: str) -> str:
        """A dotted path of an override with its old keys renamed."""
        part, keys = "recipe", []
        for key in path.split("."):
            keys.append(self._new_path_key(part, key))
            part = _child_part(part, keys[-1])
        return ".".join(keys)

    def _add_message(self, old: str, new: str) -> None:
        self.messages.append(f"{old} is now {new}; rename it")

    def _new_path_key(self, part: str, key: str) -> str:
        if new_key := RENAMED_KEYS.get(part, {}).get(key):
            return new_key
        candidates = {
            names[key] for scope, names in RENAMED_KEYS.items() if scope.startswith(f"{part}:") and key in names
        }
        return candidates.pop() if self.is_record and len(candidates) == 1 else key

    def _rename_change(self, setting: Any, value: Any, path: str) -> tuple[Any, Any]:
        """A change of a variant of a study, whose ``setting`` is a dotted path of the recipe."""
        if not isinstance(setting, str):
            return setting, value
        old, new_setting = _join(path, setting), self.rename_path(setting)
        if new_setting != setting:
            self._add_message(old, _join(path, new_setting))
        part, (*parents, key) = "recipe", new_setting.split(".")
        for parent in parents:
            part = _child_part(part, parent)
        return new_setting, self._rename_value(part, key, value, old)

    def _rename_value(self, part: str, key: Any, value: Any, path: str) -> Any:
        for old, new in RENAMED_VALUES.get(part, {}).get(str(key), {}).items():
            if value == old:
                value = new
            elif isinstance(value, list | tuple) and old in value:
                value = [new if item == old else item for item in value]
            else:
                continue
            self._add_message(f"{path}: {old}", new)
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
    return "schedule" if part in _SCHEDULE_PARENTS else _TABLE["parts"].get(part, {}).get(key, "")


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
