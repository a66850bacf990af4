"""Records of older schemas as this one's: explicit steps, one from each schema to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["OLDER", "migrated"]


def migrated(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """``record`` in this limbeck's schema, as far as its own can be read; what it never held stays unknown.

    >>> migrated({"schema": 1, "name": "a", "models": {"alone": {"role": "alone", "seconds": 2.0}}})["models"]
    {'alone': {'role': 'alone', 'seconds': 2.0, 'spent': {'seconds': 2.0}}}
    """
    while (step := _STEPS.get(record.get("schema"))) is not None:
        record = step(record)
    return record


def _from_1(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Schema 1 knew no hash, no weights and no fidelity, and of a training the seconds on the clock only."""
    models = record.get("models")
    if isinstance(models, Mapping):
        models = {name: _spent(model) for name, model in models.items()}
    return {**record, "schema": 2, "minor": 0, "models": models}


def _spent(model: Any) -> Any:
    if not isinstance(model, Mapping) or model.get("spent") is not None or model.get("seconds") is None:
        return model
    return {**model, "spent": {"seconds": model["seconds"]}}


_STEPS: Final[Mapping[Any, Callable[[Mapping[str, Any]], Mapping[str, Any]]]] = {1: _from_1}
OLDER: Final = tuple(_STEPS)
