"""The nodes of a recipe: things to build, by the name under ``use``, with their settings beside it.

They are kept as they were written; :mod:`limbeck.recipe.resolve` compares them with what they name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from limbeck.recipe.messages import shown
from limbeck.recipe.scalars import Flag, Integer, Number, Text, refuse, sentence

__all__ = ["Node", "Normalizing", "Scheduler", "Teacher", "Term"]

EngineName = Literal["auto", "eager", "folded", "compile", "onnxruntime", "openvino"]

_STRICT: Final = ConfigDict(extra="forbid", frozen=True)
_NODE: Final = ConfigDict(extra="allow", frozen=True)


def _weight(value: Any) -> Any:
    if isinstance(value, Mapping | Node):
        return Node.model_validate(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise sentence(f"{shown(value)} is not a number or a schedule")
    try:
        number = float(value)
    except ValueError:
        raise sentence(f"{shown(value)} is not a number or a schedule, such as {{use: linear, …}}") from None
    if not math.isfinite(number):
        raise sentence(f"{shown(value)} is not a finite number")
    return number


def _normalize(value: Any) -> Any:
    if isinstance(value, Mapping | Normalizing):
        return Normalizing.model_validate(value)
    allowed = ("data", "imagenet", "none")
    return value if value in allowed else refuse(
        f"{shown(value)} is not one of {', '.join(map(repr, allowed))}, nor {{mean: [...], std: [...]}}"
    )  # fmt: skip


def _classes(value: Any) -> Any:
    """A number is a setting of the network; names are a list of them, or a file."""
    many = isinstance(value, list | tuple)
    if many and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    if many or isinstance(value, bool) or not isinstance(value, int | str):
        refuse(f"{shown(value)} is no list of class names, such as [cat, dog], and no file that holds them")
    return value


def _node(value: Any) -> Any:
    """A mapping with ``use``; the name alone is short for it."""
    if isinstance(value, str):
        return {"use": value}
    if not isinstance(value, Mapping):
        return value if isinstance(value, BaseModel) else refuse(f"{shown(value)} is not a node: write {{use: NAME}}")
    if "use" not in value:
        refuse(f"{shown(value)} lacks `use`, the name of what to build")
    for key in value:
        if not isinstance(key, str):
            refuse(f"the key {shown(key)} is not text: put it in quotes")
    return value


@final
class Node(BaseModel):
    """Something to build: what it is, and its settings beside that."""

    model_config = _NODE
    use: Text

    before = model_validator(mode="before")(_node)


@final
class Term(BaseModel):
    """A term of an objective, with its weight: a number or a schedule.

    With ``gather`` it gets what all processes said together, see :func:`limbeck.distiller.gather_context`.
    """

    model_config = _NODE
    use: Text
    weight: Annotated[float | Node, BeforeValidator(_weight)] = 1.0
    gather: Flag = False

    before = model_validator(mode="before")(_node)


@final
class Normalizing(BaseModel):
    """Mean and spread of each channel, for pixels in 0..1."""

    model_config = _STRICT
    mean: tuple[Number, ...]
    std: tuple[Annotated[Number, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _channels(self) -> Self:
        if len(self.mean) != len(self.std) or not self.mean:
            refuse(f"mean has {len(self.mean)} channels and std {len(self.std)}: give one of each for every channel")
        return self


@final
class Teacher(BaseModel):
    """A teacher; ``weights`` is a file or a run folder, and without it the network is trained first.

    ``engine`` is what a network's answers are computed by, see :class:`limbeck.teachers.Engine`. ``stop`` ends the
    training early, after this fraction of its steps, since a teacher that was stopped early may teach a small student
    better (Cho & Hariharan, ICCV 2019, https://arxiv.org/abs/1910.01348).

    Where it sees and names things otherwise than the student: ``size`` is the shorter side of its pictures,
    ``normalize`` what is taken off them, ``classes`` the names of its classes in its order, and ``missing: mask``
    allows that some of the data's are not among them (:mod:`limbeck.teachers.adapter`). ``answers`` says for which
    samples it has an answer: ``finite``, where its row is not NaN, or a mask in a ``.npy`` file
    (:mod:`limbeck.teachers.masked`).
    """

    model_config = _NODE
    use: Text
    weights: Text | None = None
    engine: EngineName = "eager"
    stop: Annotated[Number, Field(gt=0, le=1)] | None = None
    size: Annotated[Integer, Field(ge=1)] | None = None
    normalize: Annotated[Literal["data", "imagenet", "none"] | Normalizing | None, BeforeValidator(_normalize)] = None
    classes: Annotated[Integer | Text | tuple[Text, ...] | None, BeforeValidator(_classes)] = None
    missing: Literal["refuse", "mask"] = "refuse"
    answers: Text | None = None

    before = model_validator(mode="before")(_node)

    @model_validator(mode="after")
    def _trained(self) -> Self:
        if self.stop is not None and self.weights is not None:
            refuse(f"stop: {self.stop:g} ends a training early, and a teacher with weights is not trained: drop one")
        if self.missing == "mask" and not self.named:
            refuse(
                "missing: mask leaves classes out that are missing among the teacher's, and it names none: give classes"
            )
        return self

    @property
    def named(self) -> bool:
        """Whether it says which classes it knows; a bare number of classes is a setting of its network."""
        return self.classes is not None and not isinstance(self.classes, int)


@final
class Scheduler(BaseModel):
    """A learning-rate scheduler, stepped after each optimizer ``step`` or each ``epoch``."""

    model_config = _NODE
    use: Text
    per: Literal["step", "epoch"] = "step"

    before = model_validator(mode="before")(_node)
