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

__all__ = ["broken", "canonical", "hash_of", "identity_of", "sealed"]

_ASIDE = ("name", "loggers", "export", "study")
"""Settings that change no figure of a network."""


def canonical(value: Any) -> bytes:
    """``value`` as JSON of which there is only one.

    >>> canonical({"b": [1, 0.5], "a": "x"})
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


def identity_of(record: Mapping[str, Any]) -> str:
    """A hash of what decides the figures: two runs of one identity should agree.

    Of the recipe (without its name, loggers, exports, and where things lie), the seed, the data's fingerprint, the
    digests of weights, limbeck's version and those of packages, the number of processes, and the arm of a study.
    """
    decides = {
        "recipe": _placeless(record.get("recipe") or {}, record.get("weights") or {}), "seed": record.get("seed"),
        "data": (record.get("data") or {}).get("fingerprint"),
        "weights": {place: one.get("sha256") for place, one in (record.get("weights") or {}).items()},
        "versions": {**(record.get("versions") or {}), "limbeck": record.get("limbeck")},
        "processes": (record.get("processes") or {}).get("number", 1), "arm": (record.get("arm") or {}).get("arm"),
    }  # fmt: skip
    return hashlib.sha256(canonical(decides)).hexdigest()


def hash_of(record: Mapping[str, Any]) -> str:
    """A hash of the whole record, but for ``hash`` itself.

    >>> hash_of({"name": "a", "hash": "old"}) == hash_of({"hash": "new", "name": "a"}) != hash_of({"name": "b"})
    True
    """
    return hashlib.sha256(canonical({key: value for key, value in record.items() if key != "hash"})).hexdigest()


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """``record`` with its identity and its hash, which come last."""
    whole = {key: value for key, value in record.items() if key not in ("identity", "hash")}
    whole["identity"] = identity_of(whole)
    return {**whole, "hash": hash_of(whole)}


def broken(record: Mapping[str, Any]) -> str | None:
    """Why ``record`` cannot be believed to be as it was written, in a sentence; ``None`` where its hashes fit."""
    if record.get("schema") == 1:
        return "record.json has schema 1, which kept no hash, so nobody can tell whether it was changed"
    if not record.get("hash"):
        return "record.json has no hash, so nobody can tell whether it was changed since it was written"
    if record["hash"] != hash_of(record):
        return "record.json was changed after it was written: its hash does not fit what it holds"
    if record.get("identity") != identity_of(record):
        return "record.json has an identity that does not fit its settings: it was sealed by other hands than limbeck's"
    return None


def _placeless(recipe: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without the paths in it: what lies there is known by its digest."""
    kept = {key: value for key, value in json.loads(canonical(recipe)).items() if key not in _ASIDE}
    for place in (*weights, "data.root", "cache.root"):
        *above, last = place.split(".")
        here: Any = kept
        for step in above:
            here = here.get(step) if isinstance(here, dict) else None
        if isinstance(here, dict):
            here.pop(last, None)
    return kept
