"""What a study compares: its seeds, and its arms beside the controls and the recipe itself."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self, final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from limbeck.recipe.identifiers import Name
from limbeck.recipe.messages import shown
from limbeck.recipe.scalars import Integer, Number, Text, known, refuse

__all__ = ["ARMS", "CONTROLS", "Study"]

CONTROLS: Final = ("alone", "longer", "smoothed")
"""The same student without a teacher: for equally many steps, for equal wall time, and with label smoothing."""
ARMS: Final = ("teacher", *CONTROLS, "distilled")
_CHANGEABLE: Final = (
    "stages", "training", "teachers", "combination", "assistants", "guided", "cache", "self_teachers", "peers",
)  # fmt: skip


def _seeds(value: Any) -> Any:
    """A number of seeds, counted from 0, or the seeds themselves."""
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(value)) if value >= 1 else refuse(f"{value} is no number of seeds: give at least 1")
    if not isinstance(value, list | tuple) or not value or len(set(map(str, value))) < len(value):
        refuse(f"{shown(value)} is neither a number of seeds nor a list of different ones: write 5, or [0, 1, 2]")
    return value


@final
class Study(BaseModel):
    """What ``limbeck study`` compares beside the controls and the recipe itself.

    ``arms`` are variants by name, each the settings it changes, as ``dotted.path: value``; ``teachers: [NAME, ...]`` in
    one lets it listen to some of the recipe's teachers only. ``smoothing`` is the label smoothing of that control.
    ``controls`` leaves some of the costly controls out, never ``alone``: every gain is over it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    seeds: Annotated[tuple[Annotated[Integer, Field(ge=0, lt=2**32)], ...], BeforeValidator(_seeds)] = (0, 1, 2, 3, 4)
    arms: dict[Name, dict[Text, Any]] = {}
    smoothing: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    controls: tuple[Text, ...] = CONTROLS

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        return known(value, cls, "study")

    @model_validator(mode="after")
    def _controls(self) -> Self:
        for name in self.controls:
            if name not in CONTROLS:
                refuse(f"controls: {shown(name)} is none of {', '.join(CONTROLS)}")
        if CONTROLS[0] not in self.controls:
            refuse(f"controls: {CONTROLS[0]} is always one of them, since every gain is over it: add it")
        return self

    @model_validator(mode="after")
    def _arms(self) -> Self:
        for name, changes in self.arms.items():
            if name in ARMS:
                refuse(f"arms.{name}: every study has an arm of that name already: choose another")
            if not changes:
                refuse(f"arms.{name}: it changes nothing, and the recipe as it is is the arm `distilled`: change some")
            for path in changes:
                if path.partition(".")[0] not in _CHANGEABLE:
                    refuse(
                        f"arms.{name}: {path} is for all arms alike, so that they can be compared: an arm changes "
                        f"{', '.join(_CHANGEABLE)}; make another study for anything else"
                    )
        return self
