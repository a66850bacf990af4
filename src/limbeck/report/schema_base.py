"""What every part of a record is: frozen, lenient when read, strict when written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from limbeck.core.errors import suggest_names

__all__ = ["WRITE_CONTEXT", "CoercedStr", "OptionalFloat", "OptionalInt", "RecordSection"]

WRITE_CONTEXT: Final = "writing"
"""The validation context in which a key that nobody knows is an error."""


def _nan_to_none(value: Any) -> Any:
    """NaN and infinity, which Python's JSON can hold, are figures nobody could compute."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


OptionalFloat = Annotated[float | None, BeforeValidator(_nan_to_none)]
OptionalInt = Annotated[int | None, BeforeValidator(_nan_to_none)]
CoercedStr = Annotated[str, BeforeValidator(str)]


class RecordSection(BaseModel):
    """A mapping of the record. A key that it does not have is ignored: a newer minor version may have more."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_keys(cls, value: Any, info: ValidationInfo) -> Any:
        if info.context == WRITE_CONTEXT and isinstance(value, Mapping):
            names = [field.alias or name for name, field in cls.model_fields.items()]
            for key in value:
                if key not in names:
                    text = f"it has no {key!r}; there are: {suggest_names(str(key), names)}"
                    raise PydanticCustomError("sentence", "{text}", {"text": text})
        return value
