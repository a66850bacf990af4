"""Records of older schemas as this one's: explicit steps, one from each schema to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["OLDER_SCHEMAS", "migrate_record"]


def migrate_record(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """``record`` in this limbeck's schema, as far as its own can be read; what it never held stays unknown.

    >>> migrate_record({"schema": 1, "name": "a", "models": {"alone": {"role": "alone", "seconds": 2.0}}})["models"]
    {'alone': {'role': 'alone', 'seconds': 2.0, 'spent': {'seconds': 2.0}}}
    """
    while (migration := _MIGRATIONS.get(record.get("schema"))) is not None:
        record = migration(record)
    return record


def _migrate_1_to_2(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Schema 1 knew no hash, no weights and no fidelity, and of a training the seconds on the clock only."""
    models = record.get("models")
    if isinstance(models, Mapping):
        models = {name: _add_spent(model) for name, model in models.items()}
    return {**record, "schema": 2, "minor": 0, "models": models}


def _add_spent(model: Any) -> Any:
    if not isinstance(model, Mapping) or model.get("spent") is not None or model.get("seconds") is None:
        return model
    return {**model, "spent": {"seconds": model["seconds"]}}


_MIGRATIONS: Final[Mapping[Any, Callable[[Mapping[str, Any]], Mapping[str, Any]]]] = {1: _migrate_1_to_2}
OLDER_SCHEMAS: Final = tuple(_MIGRATIONS)
