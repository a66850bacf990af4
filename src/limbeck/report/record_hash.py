"""Two hashes of a record: of what decided the result (``config_hash``), and of all of it (``record_hash``).

Both are a SHA-256 over canonical JSON: keys in order, no spaces, UTF-8, and numbers as Python's ``json`` writes them
(the shortest text that reads back as the same number).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from limbeck.core.errors import LimbeckError

__all__ = ["add_hashes", "canonical_json", "compute_config_hash", "compute_record_hash", "integrity_error"]

_IGNORED_KEYS = ("name", "loggers", "export", "study")
"""Settings that change no metric of a network."""
_CURRENT_KEYS = {
    "config_hash": "config_hash", "record_hash": "record_hash", "distributed": "distributed",
    "world_size": "world_size",
    "variant": "variant", "name": "name",
}  # fmt: skip
_SCHEMA_2_KEYS = {
    "config_hash": "identity", "record_hash": "hash", "distributed": "processes", "world_size": "number",
    "variant": "arm", "name": "arm",
}  # fmt: skip
"""A record of schema 2 is checked as it was written, by its own keys."""


def canonical_json(value: Any) -> bytes:
    """``value`` as JSON of which there is only one.

    >>> canonical_json({"b": [1, 0.5], "a": "x"})
    b'{"a":"x","b":[1,0.5]}'

    Raises:
        LimbeckError: it holds what JSON cannot, such as NaN.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LimbeckError(f"the record holds what JSON cannot ({error}): give null for an unknown metric") from error
    return text.encode()


def compute_config_hash(record: Mapping[str, Any]) -> str:
    """A hash of what decides the metrics: two runs of one ``config_hash`` should agree.

    Of the recipe (without its name, loggers, exports, and paths), the seed, the data's fingerprint, the digests of
    weights, limbeck's version and those of packages, the number of processes, and the variant of a study.
    """
    keys = _keys_of(record)
    config = {
        "recipe": _strip_paths(record.get("recipe") or {}, record.get("weights") or {}), "seed": record.get("seed"),
        "data": (record.get("data") or {}).get("fingerprint"),
        "weights": {config_path: file.get("sha256") for config_path, file in (record.get("weights") or {}).items()},
        "versions": {**(record.get("versions") or {}), "limbeck": record.get("limbeck")},
        keys["distributed"]: (record.get(keys["distributed"]) or {}).get(keys["world_size"], 1),
        keys["variant"]: (record.get(keys["variant"]) or {}).get(keys["name"]),
    }  # fmt: skip
    return hashlib.sha256(canonical_json(config)).hexdigest()


def compute_record_hash(record: Mapping[str, Any]) -> str:
    """A hash of the whole record, but for ``record_hash`` itself.

    >>> first, second = {"name": "a", "record_hash": "old"}, {"record_hash": "new", "name": "a"}
    >>> compute_record_hash(first) == compute_record_hash(second) != compute_record_hash({"name": "b"})
    True
    """
    hash_key = _keys_of(record)["record_hash"]
    return hashlib.sha256(canonical_json({key: value for key, value in record.items() if key != hash_key})).hexdigest()


def add_hashes(record: Mapping[str, Any]) -> dict[str, Any]:
    """``record`` with its ``config_hash`` and its ``record_hash``, which come last."""
    keys = _keys_of(record)
    hash_keys = (keys["config_hash"], keys["record_hash"])
    full_record = {key: value for key, value in record.items() if key not in hash_keys}
    full_record[keys["config_hash"]] = compute_config_hash(full_record)
    return {**full_record, keys["record_hash"]: compute_record_hash(full_record)}


def integrity_error(record: Mapping[str, Any]) -> str | None:
    """Why ``record`` cannot be believed to be as it was written, in a sentence; ``None`` where its hashes fit."""
    if record.get("schema") == 1:
        return "record.json has schema 1, which kept no hash, so nobody can tell whether it was changed"
    keys = _keys_of(record)
    if not record.get(keys["record_hash"]):
        return "record.json has no hash, so nobody can tell whether it was changed since it was written"
    if record[keys["record_hash"]] != compute_record_hash(record):
        return "record.json was changed after it was written: its hash does not fit what it holds"
    if record.get(keys["config_hash"]) != compute_config_hash(record):
        return f"record.json has a {keys['config_hash']} that does not fit its settings: limbeck did not write it"
    return None


def _keys_of(record: Mapping[str, Any]) -> Mapping[str, str]:
    return _SCHEMA_2_KEYS if record.get("schema") == 2 else _CURRENT_KEYS


def _strip_paths(recipe: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without the paths in it: what lies there is known by its digest."""
    stripped = {key: value for key, value in json.loads(canonical_json(recipe)).items() if key not in _IGNORED_KEYS}
    for config_path in (*weights, "data.root", "cache.root"):
        *parents, leaf = config_path.split(".")
        container: Any = stripped
        for segment in parents:
            container = container.get(segment) if isinstance(container, dict) else None
        if isinstance(container, dict):
            container.pop(leaf, None)
    return stripped
