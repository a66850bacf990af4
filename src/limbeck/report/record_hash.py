"""Two hashes of a record: of what decided the result, and of every figure in it.

Both are a SHA-256 over canonical JSON: keys in order, no spaces, UTF-8, and numbers as Python's ``json`` writes them
(the shortest text that reads back as the same number).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from limbeck.core.errors import LimbeckError

__all__ = ["integrity_error", "canonical_json", "compute_record_hash", "compute_config_hash", "add_hashes"]

_IGNORED_KEYS = ("name", "loggers", "export", "study")
"""Settings that change no figure of a network."""


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
        raise LimbeckError(
            f"the record holds what JSON cannot ({error}): give null for a figure nobody knows"
        ) from error
    return text.encode()


def compute_config_hash(record: Mapping[str, Any]) -> str:
    """A hash of what decides the figures: two runs of one identity should agree.

    Of the recipe (without its name, loggers, exports, and where things lie), the seed, the data's fingerprint, the
    digests of weights, limbeck's version and those of packages, the number of processes, and the arm of a study.
    """
    config = {
        "recipe": _strip_paths(record.get("recipe") or {}, record.get("weights") or {}), "seed": record.get("seed"),
        "data": (record.get("data") or {}).get("fingerprint"),
        "weights": {config_path: file.get("sha256") for config_path, file in (record.get("weights") or {}).items()},
        "versions": {**(record.get("versions") or {}), "limbeck": record.get("limbeck")},
        "processes": (record.get("processes") or {}).get("number", 1), "arm": (record.get("arm") or {}).get("arm"),
    }  # fmt: skip
    return hashlib.sha256(canonical_json(config)).hexdigest()


def compute_record_hash(record: Mapping[str, Any]) -> str:
    """A hash of the whole record, but for ``hash`` itself.

    >>> compute_record_hash({"name": "a", "hash": "old"}) == compute_record_hash({"hash": "new", "name": "a"}) != compute_record_hash({"name": "b"})
    True
    """
    return hashlib.sha256(canonical_json({key: value for key, value in record.items() if key != "hash"})).hexdigest()


def add_hashes(record: Mapping[str, Any]) -> dict[str, Any]:
    """``record`` with its identity and its hash, which come last."""
    full_record = {key: value for key, value in record.items() if key not in ("identity", "hash")}
    full_record["identity"] = compute_config_hash(full_record)
    return {**full_record, "hash": compute_record_hash(full_record)}


def integrity_error(record: Mapping[str, Any]) -> str | None:
    """Why ``record`` cannot be believed to be as it was written, in a sentence; ``None`` where its hashes fit."""
    if record.get("schema") == 1:
        return "record.json has schema 1, which kept no hash, so nobody can tell whether it was changed"
    if not record.get("hash"):
        return "record.json has no hash, so nobody can tell whether it was changed since it was written"
    if record["hash"] != compute_record_hash(record):
        return "record.json was changed after it was written: its hash does not fit what it holds"
    if record.get("identity") != compute_config_hash(record):
        return "record.json has an identity that does not fit its settings: it was sealed by other hands than limbeck's"
    return None


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
