"""Two hashes of a record: of its configuration (``config_hash``), and of its whole content (``record_hash``).

Both are a SHA-256 over canonical JSON: sorted keys, no spaces, UTF-8, and numbers as Python's ``json`` writes them
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
"""Settings that change no metric."""
_CURRENT_KEYS = {
    name: name for name in ("config_hash", "record_hash", "distributed", "world_size", "variant", "name")
}  # fmt: skip
_SCHEMA_2_KEYS = {
    "config_hash": "identity", "record_hash": "hash", "distributed": "processes", "world_size": "number",
    "variant": "arm", "name": "arm",
}  # fmt: skip
"""A record of schema 2 is checked with its own keys."""


def canonical_json(value: Any) -> bytes:
    """``value`` as canonical JSON.

    >>> canonical_json({"b": [1, 0.5], "a": "x"})
    b'{"a":"x","b":[1,0.5]}'

    Raises:
        LimbeckError: JSON cannot hold it, such as NaN.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LimbeckError(f"the record holds what JSON cannot ({error}): give null for an unknown metric") from error
    return text.encode()


def compute_config_hash(record: Mapping[str, Any]) -> str:
    """A hash of everything that determines the metrics: two runs with one ``config_hash`` should agree.

    It covers the recipe (without name, loggers, exports and paths), the seed, the data's fingerprint, the digests of
    weights, the versions of limbeck and of packages, the number of processes, and the variant of a study.
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
    """A hash of the record without ``record_hash`` itself.

    >>> first, second = {"name": "a", "record_hash": "old"}, {"record_hash": "new", "name": "a"}
    >>> compute_record_hash(first) == compute_record_hash(second) != compute_record_hash({"name": "b"})
    True
    """
    hash_key = _keys_of(record)["record_hash"]
    return hashlib.sha256(canonical_json({key: value for key, value in record.items() if key != hash_key})).hexdigest()


def add_hashes(record: Mapping[str, Any]) -> dict[str, Any]:
    """``record`` with ``config_hash`` and ``record_hash`` as its last keys."""
    keys = _keys_of(record)
    hash_keys = (keys["config_hash"], keys["record_hash"])
    full_record = {key: value for key, value in record.items() if key not in hash_keys}
    full_record[keys["config_hash"]] = compute_config_hash(full_record)
    return {**full_record, keys["record_hash"]: compute_record_hash(full_record)}


def integrity_error(record: Mapping[str, Any]) -> str | None:
    """Why the hashes of ``record`` do not match its content, in a sentence; ``None`` where they do."""
    if record.get("schema") == 1:
        return "record.json has schema 1, which has no hash, so changes cannot be detected"
    keys = _keys_of(record)
    if not record.get(keys["record_hash"]):
        return "record.json has no hash, so changes cannot be detected"
    if record[keys["record_hash"]] != compute_record_hash(record):
        return "record.json was changed after it was written: its hash does not fit its content"
    if record.get(keys["config_hash"]) != compute_config_hash(record):
        return f"record.json has a {keys['config_hash']} that does not fit its settings: limbeck did not write it"
    return None


def _keys_of(record: Mapping[str, Any]) -> Mapping[str, str]:
    return _SCHEMA_2_KEYS if record.get("schema") == 2 else _CURRENT_KEYS


def _strip_paths(recipe: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without paths: digests identify the files."""
    stripped = {key: value for key, value in json.loads(canonical_json(recipe)).items() if key not in _IGNORED_KEYS}
    for config_path in (*weights, "data.root", "cache.root"):
        *parents, leaf = config_path.split(".")
        container: Any = stripped
        for segment in parents:
            container = container.get(segment) if isinstance(container, dict) else None
        if isinstance(container, dict):
            container.pop(leaf, None)
    return stripped
