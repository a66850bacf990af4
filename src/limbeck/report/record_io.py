"""Reads, writes and checks ``record.json`` and computes its two hashes.

Reading accepts older schemas and unknown keys; writing does not.

``config_hash`` covers the configuration, ``record_hash`` the whole record. Both are a SHA-256 over canonical JSON:
sorted keys, no spaces, UTF-8, and numbers as Python's ``json`` writes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.report.migrate import MIGRATIONS, migrate_record
from limbeck.report.record import SCHEMA, SCHEMA_MINOR, Record
from limbeck.utils.io import digest, parse_json, require_regular_file, write_text

_UNHASHED_RECIPE_KEYS = ("name", "loggers", "callbacks", "export", "study")
"""Keys of the recipe that do not affect metrics; ``config_hash`` does not cover them."""
_CURRENT_HASH_KEYS = ("config_hash", "record_hash", "distributed", "world_size", "variant", "name")
_SCHEMA_2_HASH_KEYS = ("identity", "hash", "processes", "number", "arm", "arm")
"""The names of the same keys in schema 2."""


def read_record(path: Path) -> Record:
    """Read the record at ``path``; older schemas are migrated.

    Raises:
        LimbeckError: the file is missing, is not JSON, or is not the record of a finished run.
    """
    return parse_record(load_json(path), source=str(path))


def load_json(path: Path) -> Any:
    """The content of the JSON file at ``path``.

    Raises:
        LimbeckError: the file is missing, cannot be read, or is not JSON.
    """
    try:
        return parse_json(require_regular_file(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LimbeckError(_describe_missing(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise LimbeckError(f"{path} could not be read ({error}): give the folder of a finished run") from None
    except ValueError as error:
        raise LimbeckError(
            f"{path} is not JSON ({error}): it was truncated or edited; run `limbeck distill` again"
        ) from None


def _describe_missing(path: Path) -> str:
    """Why there is no file at ``path`` of a run folder, and what to do."""
    folder = path.parent
    if not folder.is_dir():
        return f"{folder} is no folder: give the folder of a finished run, or run `limbeck distill` first"
    if (folder / "study.json").is_file():
        return f"{folder} is a study: give one of its trials, such as {folder}/trials/VARIANT/SEED"
    if (folder / "recipe.yaml").is_file() and path.name == "record.json":
        study = next((parent for parent in folder.parents[:3] if (parent / "study.json").is_file()), None)
        command = f"distill --resume --out {folder}" if study is None else f"study --resume --out {study}"
        return f"{folder} has no record.json, so it is not finished: go on with limbeck {command}"
    if path.name == "record.json" and (runs := sorted(folder.glob("*/record.json"))):
        return f"{folder} is a folder of runs: give a run in it, such as {runs[0].parent}"
    return f"{folder} has no {path.name}: give the folder of a finished run, or run `limbeck distill` first"


def parse_record(record: object, *, source: str = "the record") -> Record:
    """Parse ``record`` into typed objects; older schemas are migrated.

    Raises:
        LimbeckError: it is not the record of a finished run.
    """
    if not isinstance(record, Mapping):
        raise LimbeckError(f"{source} must be a mapping, got {type(record).__name__}")
    schemas = (*MIGRATIONS, SCHEMA)
    if record.get("schema") not in schemas:
        raise LimbeckError(
            f"{source} has schema {record.get('schema')!r}, and this version reads {', '.join(map(str, schemas))}: "
            "use the version of limbeck that wrote the run"
        )
    try:
        result = Record.model_validate(migrate_record(record))
    except ValidationError as error:
        raise LimbeckError(
            f"{source} is not a record of a run: {_format_validation_error(error)}; run `limbeck distill` again"
        ) from None
    # A trial of a study holds one variant, which may be a baseline.
    if result.kind == "run" and not any(model.role == Role.DISTILLED for model in result.models.values()):
        raise LimbeckError(f"{source} has no model with the role 'distilled': the run did not finish; resume it")
    return result


def write_record(run_dir: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``run_dir/record.json`` with its schema and its hashes; returns the content.

    Raises:
        LimbeckError: the record violates the schema, has an unknown key, or holds NaN.
    """
    full_record = add_hashes({"schema": SCHEMA, "schema_minor": SCHEMA_MINOR, **record})
    validate_strict(full_record)
    text = json.dumps(full_record, indent=1, allow_nan=False)
    write_text(run_dir / "record.json", text)
    return full_record


def validate_strict(record: Mapping[str, Any]) -> None:
    """Check that a record may be written.

    Raises:
        LimbeckError: it has an unknown key, or lacks a key that reproducing the run needs.
    """
    try:
        parsed = Record.model_validate(record, extra="forbid")
    except ValidationError as error:
        raise LimbeckError(f"the record violates schema {SCHEMA}: {_format_validation_error(error)}") from None
    missing = [
        name for name in ("limbeck", "recipe", "versions", "machine", "environment") if not getattr(parsed, name)
    ]
    missing += [] if parsed.data.fingerprint else ["data.fingerprint"]
    missing += [] if parsed.primary_metric in parsed.metric_info else ["metric_info of the primary_metric"]
    if parsed.schema_version != SCHEMA or missing:
        problem = f"no {', '.join(missing)}" if missing else f"the schema {parsed.schema_version}"
        raise LimbeckError(f"the record has {problem}, and schema {SCHEMA} needs it to reproduce the run")


def render_json_schema() -> str:
    """The JSON Schema (draft 2020-12) of a record; ``record.schema.json`` in the package holds this text."""
    schema_header = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"limbeck-record-{SCHEMA}.{SCHEMA_MINOR}",
    }
    return json.dumps({**schema_header, **Record.model_json_schema(by_alias=True)}, indent=1, ensure_ascii=False) + "\n"


def check_record(run_dir: Path) -> list[str]:
    """The problems of ``run_dir/record.json`` and the files it lists, one sentence each; empty if there are none.

    Raises:
        LimbeckError: there is no record, or it cannot be parsed.
    """
    path = Path(run_dir) / "record.json"
    raw = load_json(path)
    record = parse_record(raw, source=str(path))
    problems = [problem] if (problem := integrity_error(raw)) else []
    if raw["schema"] == SCHEMA and record.schema_minor <= SCHEMA_MINOR:
        try:
            validate_strict(migrate_record(raw))
        except LimbeckError as error:
            problems.append(str(error))
    # The raw keys: a record of an older schema lists its files by their older names.
    for name, file in zip(raw["files"] if record.files else {}, record.files.values(), strict=True):
        file_path = path.parent / Path(name).name
        if not file_path.exists():
            problems.append(f"{name} is missing, but the record lists it")
        elif digest(file_path) != file.sha256:
            problems.append(f"{name} is not the file that the record lists: its SHA-256 differs")
    return problems


def integrity_warning(run_dir: Path) -> str | None:
    """Why the hashes of ``run_dir/record.json`` do not match; ``None`` where they do, and for schema 1."""
    raw = load_json(Path(run_dir) / "record.json")
    return integrity_error(raw) if isinstance(raw, dict) and raw.get("schema") != 1 else None


def integrity_error(record: Mapping[str, Any]) -> str | None:
    """Why the hashes of ``record`` do not match its content; ``None`` if they do."""
    if record.get("schema") == 1:
        return "record.json has schema 1, which has no hash, so changes cannot be detected"
    config_key, record_key, *_ = _hash_keys(record)
    if not record.get(record_key):
        return "record.json has no hash, so changes cannot be detected"
    if record[record_key] != compute_record_hash(record):
        return "record.json was changed after it was written: its hash does not match its content"
    if record.get(config_key) != compute_config_hash(record):
        return f"record.json has a {config_key} that does not match its settings: it was not written by limbeck"
    return None


def add_hashes(record: Mapping[str, Any]) -> dict[str, Any]:
    """``record`` with ``config_hash`` and ``record_hash`` as its last keys."""
    config_key, record_key, *_ = _hash_keys(record)
    full_record = {key: value for key, value in record.items() if key not in (config_key, record_key)}
    full_record[config_key] = compute_config_hash(full_record)
    return {**full_record, record_key: compute_record_hash(full_record)}


def compute_record_hash(record: Mapping[str, Any]) -> str:
    """A hash of the record without ``record_hash`` itself.

    >>> first, second = {"name": "a", "record_hash": "old"}, {"record_hash": "new", "name": "a"}
    >>> compute_record_hash(first) == compute_record_hash(second) != compute_record_hash({"name": "b"})
    True
    """
    record_key = _hash_keys(record)[1]
    return _hash_json({key: value for key, value in record.items() if key != record_key})


def compute_config_hash(record: Mapping[str, Any]) -> str:
    """A hash of everything that determines the metrics: runs with equal ``config_hash`` should have equal metrics.

    It covers the recipe (without name, loggers, exports and paths), the seed, the data's fingerprint, the digests of
    weights, the versions of limbeck and of packages, the number of processes, and the variant of a study.
    """
    *_, distributed_key, world_size_key, variant_key, name_key = _hash_keys(record)
    weights = record.get("weights") or {}
    recipe = {key: value for key, value in (record.get("recipe") or {}).items() if key not in _UNHASHED_RECIPE_KEYS}
    recipe = json.loads(_canonical_json(recipe))
    # Digests identify the files, so their paths do not count.
    for config_path in (*weights, "data.root", "cache.root"):
        *parents, leaf = config_path.split(".")
        container: Any = recipe
        for segment in parents:
            container = container.get(segment) if isinstance(container, dict) else None
        if isinstance(container, dict):
            container.pop(leaf, None)
    config = {
        "recipe": recipe, "seed": record.get("seed"), "data": (record.get("data") or {}).get("fingerprint"),
        "weights": {config_path: file.get("sha256") for config_path, file in weights.items()},
        "versions": {**(record.get("versions") or {}), "limbeck": record.get("limbeck")},
        distributed_key: (record.get(distributed_key) or {}).get(world_size_key, 1),
        variant_key: (record.get(variant_key) or {}).get(name_key),
    }  # fmt: skip
    return _hash_json(config)


def _hash_keys(record: Mapping[str, Any]) -> tuple[str, ...]:
    return _SCHEMA_2_HASH_KEYS if record.get("schema") == 2 else _CURRENT_HASH_KEYS


def _hash_json(value: Any) -> str:
    return hashlib.sha256(_canonical_json(value)).hexdigest()


def _canonical_json(value: Any) -> bytes:
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LimbeckError(
            f"the record has a value that JSON cannot represent ({error}): use null for an unknown metric"
        ) from error
    return text.encode()


def _format_validation_error(error: ValidationError) -> str:
    """The first problem, with the path of its key."""
    first = error.errors(include_url=False)[0]
    *parents, key = map(str, first["loc"] or ("the record",))
    if first["type"] == "extra_forbidden":
        return f"{'.'.join(parents) or 'the record'}: unknown key {key!r}; `limbeck record schema` prints the keys"
    value = repr(first["input"])
    text = value if len(value) <= 60 else f"{value[:57]}..."
    return f"{'.'.join([*parents, key])} ({first['msg'].lower()}, got {text})"
