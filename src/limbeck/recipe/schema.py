"""What a recipe is: its keys, their types and defaults. A key that is not here is an error that names the right one.

What stands under ``use: …`` is a node (:mod:`limbeck.recipe.node_schema`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, TypeVar, final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from limbeck.core.errors import LimbeckError
from limbeck.recipe.assistant_chain import Guided, Link, links
from limbeck.recipe.generations import spread
from limbeck.recipe.identifiers import FileName, Name, Plugin, TeacherName
from limbeck.recipe.messages import at, shown
from limbeck.recipe.node_schema import Node, Scheduler, Teacher, Term
from limbeck.recipe.scalars import Integer, Number, Text, complaint, known, refuse
from limbeck.recipe.study_schema import Study

__all__ = [
    "Cache",
    "Export",
    "Node",
    "Recipe",
    "Scheduler",
    "Stage",
    "Study",
    "Teacher",
    "Term",
    "Training",
    "plain",
    "validated",
]

_Model = TypeVar("_Model", bound=BaseModel)

Precision = Literal[
    "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "transformer-engine",
    "transformer-engine-float16",
]  # fmt: skip
Format = Literal["onnx"]
_SHARED_PRECISIONS: Final = ("32-true", "bf16-mixed", "bf16-true", "16-true")
Sampling = Literal["plain", "classmates", "again"]

_STRICT: Final = ConfigDict(extra="forbid", frozen=True)


def _controls(value: Any) -> Any:
    allowed = ("alone", "direct")
    several = isinstance(value, list | tuple)
    for one in value if several else [value]:
        if one not in (allowed if several else (*allowed, "none")):
            refuse(f"{shown(one)} is not one of 'alone', 'direct'" + ("" if several else ", 'none'"))
    if several and (not value or len(set(value)) < len(value)):
        refuse(f"{shown(value)} does not name each control once: write [alone, direct], alone, direct or none")
    return value


@final
class Training(BaseModel):
    """How to train: see :class:`limbeck.training.Training`; ``precision`` is one of Lightning Fabric's.

    ``strategy`` is how the processes that ``torchrun`` started share the work (:func:`limbeck.training.launched`);
    ``devices`` is for how many of them the recipe was made, and any other number is refused.
    """

    model_config = _STRICT
    optimizer: Node = Node.model_validate({"use": "AdamW", "lr": 1e-3})
    scheduler: Scheduler | None = None
    batch: Annotated[Integer, Field(ge=1)] = 64
    accumulate: Annotated[Integer, Field(ge=1)] = 1
    clip: Annotated[Number, Field(gt=0)] | None = None
    ema: Annotated[Number, Field(gt=0, lt=1)] | None = None
    patience: Annotated[Integer, Field(ge=1)] | None = None
    precision: Precision = "32-true"
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    devices: Annotated[Integer, Field(ge=1)] | None = None
    keep: Literal["last", "best"] = "last"
    workers: Annotated[Integer, Field(ge=0)] = 0
    sampling: Sampling = "plain"

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        return known(value, cls, "training")

    @model_validator(mode="after")
    def _halves(self) -> Self:
        if self.sampling != "plain" and self.batch % 2:
            refuse(f"sampling: with {self.sampling} a batch has two halves, and batch {self.batch} is odd")
        return self

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.strategy == "fsdp" and self.ema is not None:
            refuse(f"ema: {self.ema:g} averages whole weights, and under fsdp nobody has them: drop it, or use ddp")
        if self.strategy == "fsdp" and self.precision not in _SHARED_PRECISIONS:
            refuse(f"precision: under fsdp it is one of {', '.join(_SHARED_PRECISIONS)}, not {self.precision}")
        return self


@final
class Stage(BaseModel):
    """One stretch of training: for so many ``epochs`` or optimizer ``steps``, towards one objective.

    ``training`` changes single settings of the recipe's for this stage; in ``optimizer`` and ``scheduler`` a node with
    ``use`` takes the place of the recipe's, and one without changes its settings. ``frozen`` are paths of the student's
    modules that keep their weights. ``balance`` moves the weights of the terms, see
    :mod:`limbeck.losses.weighting.loss_weighting`.
    """

    model_config = _STRICT
    name: Name
    epochs: Annotated[Integer, Field(ge=1)] | None = None
    steps: Annotated[Integer, Field(ge=1)] | None = None
    objective: Annotated[dict[Name, Term], Field(min_length=1)]
    balance: Node | None = None
    taps: dict[Text, dict[Name, Text]] = {}
    training: dict[Text, Any] = {}
    frozen: tuple[Text, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            objective = value.get("objective")
            if objective is not None and not isinstance(objective, Mapping):
                refuse("objective is terms by name, such as {soft: {use: SoftTarget, tau: 4}}")
            if isinstance(objective, Mapping) and not objective:
                refuse("objective has no term, such as {soft: {use: SoftTarget, tau: 4}}")
            for key in ("weight", "weights"):
                term = objective.get(key) if isinstance(objective, Mapping) else None
                if term is not None and not (isinstance(term, Mapping) and "use" in term):
                    refuse(f"objective has {key!r} beside its terms: write each weight inside its term")
        return known(value, cls, "a stage")

    @model_validator(mode="after")
    def _length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            both = "has both epochs and steps" if self.epochs else "has no length"
            refuse(f"the stage {self.name!r} {both}: give epochs or steps, one of the two")
        return self


@final
class Cache(BaseModel):
    """Teachers' answers on disk, each asked for once; the settings are those of :class:`limbeck.teachers.Format`.

    ``root`` is the folder of all caches; ``null``: ``$LIMBECK_CACHE``, or ``~/.cache/limbeck/answers``.
    """

    model_config = _STRICT
    root: Text | None = None
    top: Annotated[Integer, Field(ge=1)] | None = None
    tail: Literal["spread", "renormalised"] | None = None
    precision: Literal["float16", "float32"] = "float16"
    features: Literal["float16", "float32", "int8"] = "float16"
    pool: Annotated[Integer, Field(ge=1)] = 1

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        return known(value, cls, "cache")

    @model_validator(mode="after")
    def _tail(self) -> Self:
        if self.top is None and self.tail is not None:
            refuse("tail says what happens to the classes beyond `top`, and without `top` every logit is kept")
        return self


@final
class Export(BaseModel):
    """What to write the finished student as."""

    model_config = _STRICT
    to: tuple[Format, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        return known(value, cls, "export")


_TOGETHER: Final = Node.model_validate({"use": "MeanLogits"})


@final
class Recipe(BaseModel):
    """Everything that decides a run; :func:`limbeck.recipe.load` makes one from YAML.

    ``combination`` is how several teachers speak to terms that name none, one of
    :mod:`limbeck.teachers.combinations`. ``data_seed`` decides how the data are cut, which labels are kept, and the
    views; ``None``: ``seed`` does. With it set, runs of different seeds share their parts, a teacher that was trained
    elsewhere, and the cache of its answers. ``self_teachers`` are made of the student itself
    (:mod:`limbeck.teachers.self_teachers`), anew in each stage; ``peers`` are students that learn together with it
    (:class:`limbeck.distiller.Peers`). ``generations`` makes the student the last of so many networks of its shape
    (:mod:`limbeck.recipe.generations`).
    """

    model_config = _STRICT
    name: FileName = "run"
    seed: Annotated[Integer, Field(ge=0, lt=2**32)] = 0
    data_seed: Annotated[Integer, Field(ge=0, lt=2**32)] | None = None
    plugins: tuple[Plugin, ...] = ()
    task: Node
    data: Node
    teachers: dict[TeacherName, Teacher] = {}
    assistants: dict[TeacherName, Node] = {}
    guided: Guided = "last"
    combination: Node = _TOGETHER
    student: Node
    self_teachers: dict[TeacherName, Node] = {}
    peers: dict[TeacherName, Node] = {}
    generations: Annotated[Integer, Field(ge=2)] | None = None
    teaching: Stage | None = None
    stages: tuple[Stage, ...] = ()
    training: Training = Training()
    cache: Cache | None = None
    study: Study | None = None
    control: Annotated[Text | tuple[Text, ...], BeforeValidator(_controls)] = "alone"
    export: Export = Export()
    threads: Annotated[Integer, Field(ge=1)] | None = None
    loggers: tuple[Literal["tensorboard", "mlflow"], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and isinstance(value.get("teaching"), Mapping):
            value = {**value, "teaching": {"name": "teaching", **value["teaching"]}}
        return known(spread(value) if isinstance(value, Mapping) else value, cls, "a recipe")

    @property
    def controls(self) -> tuple[str, ...]:
        """The students that the distilled one is compared with: ``alone``, and ``direct`` without the assistants."""
        return self.control if isinstance(self.control, tuple) else () if self.control == "none" else (self.control,)

    def links(self) -> list[Link]:
        """Who learns from whom, in the order of training: each assistant, then the student."""
        return links(list(self.teachers), [*self.assistants, "student"], guided=self.guided)

    @model_validator(mode="after")
    def _trainings(self) -> Self:
        for place, stage in self.each_stage():
            self.training_of(stage, place=place)
        return self

    def each_stage(self) -> list[tuple[str, Stage]]:
        """Teaching, if there is any, and the stages, each with its place."""
        teaching = [("teaching", self.teaching)] if self.teaching is not None else []
        return [*teaching, *((f"stages.{i}", stage) for i, stage in enumerate(self.stages))]

    def training_of(self, stage: Stage, *, place: str = "stage") -> Training:
        """The recipe's training with the changes of ``stage``."""
        place, whole = at(place, "training"), plain(self.training)
        for key, change in stage.training.items():
            partial = key in ("optimizer", "scheduler") and isinstance(change, Mapping) and "use" not in change
            if partial and whole[key] is None:
                raise LimbeckError(
                    f"{at(place, key)}: {shown(change)} changes nothing, as the recipe has none: add use"
                )
            whole[key] = {**whole[key], **change} if partial else change
        return validated(Training, whole, place)


_SELDOM: Final = ("size", "normalize", "classes", "missing", "answers")
"""What a teacher has only where it was said: most see and name things as the student does."""


def validated(model: type[_Model], data: Any, place: str = "") -> _Model:
    """``data`` as ``model``, or a ``LimbeckError`` of one sentence with the dotted place."""
    if not isinstance(data, Mapping):
        raise LimbeckError(f"{place or 'a recipe'}: {shown(data)} is not a mapping of settings, such as `seed: 0`")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    steps = [step for step in first["loc"] if step != "[key]"]
    if first["type"] == "missing":
        raise LimbeckError(f"{at(place, *steps[:-1]) or 'recipe'}: {steps[-1]!r} is missing")
    raise LimbeckError(f"{at(place, *steps) or 'recipe'}: {complaint(first)}")


def plain(value: Any) -> Any:
    """A recipe, or a part of one, as plain data in the order of the schema; the settings of a node follow its name.

    >>> plain(Term.model_validate({"use": "SoftTarget", "weight": 0.9, "tau": 4}))
    {'use': 'SoftTarget', 'tau': 4, 'weight': 0.9}
    """
    if isinstance(value, BaseModel):
        own = {name: plain(getattr(value, name)) for name in type(value).model_fields}
        if isinstance(value, Stage):
            own = {name: item for name, item in own.items() if item is not None}
        if isinstance(value, Term) and not value.gather:
            del own["gather"]
        if isinstance(value, Teacher):
            for name in _SELDOM:
                if own[name] == Teacher.model_fields[name].default:
                    del own[name]
        if value.model_extra is not None:
            return {"use": own.pop("use"), **{name: plain(item) for name, item in value.model_extra.items()}, **own}
        return own
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
