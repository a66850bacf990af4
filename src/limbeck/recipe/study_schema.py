"""The settings of a study: its seeds, variants and baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Self, final

from pydantic import BeforeValidator, Field, model_validator

from limbeck.core.limits import MAX_SEEDS, MAX_VARIANTS
from limbeck.recipe.node_schema import Name
from limbeck.utils.validation import Number, Settings, StrictInt, StrictStr, format_value, raise_validation_error

__all__ = ["BASELINES", "BUILTIN_VARIANTS", "Study"]

BASELINES: Final = ("student_only", "equal_time", "label_smoothing")
"""The same student without a teacher: for equally many steps, for equal wall time, and with label smoothing."""
BUILTIN_VARIANTS: Final = ("teacher", *BASELINES, "distilled")
_VARIABLE_KEYS: Final = (
    "stages", "training", "teachers", "ensemble", "assistants", "assistant_mode", "cache", "self_teachers", "peers",
)  # fmt: skip


def _parse_seeds(value: Any) -> Any:
    """A number of seeds, counted from 0, or the seeds themselves."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_SEEDS:
            raise_validation_error(f"the number of seeds must be from 1 to {MAX_SEEDS}, got {format_value(value)}")
        return tuple(range(value))
    if not isinstance(value, list | tuple) or not value or len(set(map(str, value))) < len(value):
        raise_validation_error(
            f"{format_value(value)} is neither a number of seeds nor a list of different ones: write 5, or [0, 1, 2]"
        )
    if len(value) > MAX_SEEDS:
        raise_validation_error(f"a study has at most {MAX_SEEDS} seeds, got {len(value)}")
    return value


def _check_number(value: Any) -> Any:
    if isinstance(value, Mapping) and len(value) > MAX_VARIANTS:
        raise_validation_error(f"a study has at most {MAX_VARIANTS} variants, got {len(value)}: make several studies")
    return value


@final
class Study(Settings):
    """What ``limbeck study`` compares with the recipe itself.

    Attributes:
        seeds: the seeds of each variant, or their number.
        variants: by name, the settings that each changes, as ``dotted.path: value``; ``teachers: [NAME, ...]``
            selects among the recipe's teachers.
        label_smoothing: the value of that baseline.
        baselines: baselines to train; always with ``student_only``, which gains are measured against. ``None``: all,
            ``label_smoothing`` where a supervised loss has that setting.
    """

    display_name = "study"
    seeds: Annotated[tuple[Annotated[StrictInt, Field(ge=0, lt=2**32)], ...], BeforeValidator(_parse_seeds)] = tuple(
        range(5)
    )
    variants: Annotated[dict[Name, dict[StrictStr, Any]], BeforeValidator(_check_number)] = {}
    label_smoothing: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    baselines: tuple[StrictStr, ...] | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for name in self.baselines or ():
            if name not in BASELINES:
                raise_validation_error(f"baselines: {format_value(name)} is none of {', '.join(BASELINES)}")
        if self.baselines is not None and BASELINES[0] not in self.baselines:
            raise_validation_error(
                f"baselines: {BASELINES[0]} is always one of them, since every gain is over it: add it"
            )
        for name, changes in self.variants.items():
            if name in BUILTIN_VARIANTS:
                raise_validation_error(
                    f"variants.{name}: every study has a variant of that name already: choose another"
                )
            if not changes:
                raise_validation_error(
                    f"variants.{name}: it changes nothing, and the unchanged recipe is the variant `distilled`: change "
                    "a setting"
                )
            for path in changes:
                if path.partition(".")[0] not in _VARIABLE_KEYS:
                    raise_validation_error(
                        f"variants.{name}: {path} is for all variants alike, so that they can be compared: a variant "
                        f"changes {', '.join(_VARIABLE_KEYS)}; make another study for anything else"
                    )
        return self
