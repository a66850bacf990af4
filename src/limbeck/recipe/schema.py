"""The keys of a recipe, their types and defaults; objects to build are nodes (:mod:`limbeck.recipe.node_schema`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, TypeVar, final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from limbeck.core.errors import LimbeckError
from limbeck.recipe.node_schema import LossNode, Node, SchedulerNode, TeacherNode
from limbeck.recipe.study_schema import Study
from limbeck.recipe.training_order import AssistantMode, TrainingPair, expand_generations, training_order
from limbeck.recipe.validation import (
    FileName,
    Name,
    Number,
    Plugin,
    StrictInt,
    StrictStr,
    TeacherName,
    describe_validation_error,
    format_value,
    join_path,
    raise_validation_error,
    reject_unknown_keys,
)
from limbeck.utils.renamed_keys import reject_renamed

__all__ = [
    "CacheNode",
    "ExportNode",
    "LossNode",
    "Node",
    "Recipe",
    "SchedulerNode",
    "Stage",
    "Study",
    "TeacherNode",
    "TrainingNode",
    "to_plain",
    "validate",
]

ModelT = TypeVar("ModelT", bound=BaseModel)

TrainingPrecision = Literal[
    "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "transformer-engine",
    "transformer-engine-float16",
]  # fmt: skip
ExportFormat = Literal["onnx"]
_FSDP_PRECISIONS: Final = ("32-true", "bf16-mixed", "bf16-true", "16-true")
BatchPairing = Literal["none", "same_class", "repeat_previous"]

_BASELINES: Final = ("student_only", "no_assistants")

_STRICT_CONFIG: Final = ConfigDict(extra="forbid", frozen=True)


def _parse_baselines(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise_validation_error(f"{format_value(value)} is not a list: write [student_only], or [] for none")
    for name in value:
        if name not in _BASELINES:
            raise_validation_error(f"{format_value(name)} is not one of {', '.join(map(repr, _BASELINES))}")
    if len(set(value)) < len(value):
        raise_validation_error(
            f"{format_value(value)} does not name each baseline once: write {format_value(_BASELINES)}"
        )
    return value


@final
class TrainingNode(BaseModel):
    """How to train; see :class:`limbeck.training.TrainingConfig`.

    Attributes:
        precision: one of Lightning Fabric's.
        strategy: how the processes that ``torchrun`` started share the work.
        devices: the number of processes that the recipe is for; any other number is an error.
    """

    model_config = _STRICT_CONFIG
    optimizer: Node = Node.model_validate({"use": "AdamW", "lr": 1e-3})
    scheduler: SchedulerNode | None = None
    batch_size: Annotated[StrictInt, Field(ge=1)] = 64
    grad_accum_steps: Annotated[StrictInt, Field(ge=1)] = 1
    max_grad_norm: Annotated[Number, Field(gt=0)] | None = None
    ema_decay: Annotated[Number, Field(gt=0, lt=1)] | None = None
    early_stopping_patience: Annotated[StrictInt, Field(ge=1)] | None = None
    precision: TrainingPrecision = "32-true"
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    devices: Annotated[StrictInt, Field(ge=1)] | None = None
    keep_weights: Literal["last", "best"] = "last"
    num_workers: Annotated[StrictInt, Field(ge=0)] = 0
    batch_pairing: BatchPairing = "none"

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_keys(cls, value: Any) -> Any:
        return reject_unknown_keys(value, cls, "training")

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.batch_pairing != "none" and self.batch_size % 2:
            raise_validation_error(
                f"batch_pairing: with {self.batch_pairing} a batch has two halves, and batch_size "
                f"{self.batch_size} is odd"
            )
        if self.strategy == "fsdp" and self.ema_decay is not None:
            raise_validation_error(
                f"ema_decay: {self.ema_decay:g} averages full weights, which no process has under fsdp: drop it, or "
                "use ddp"
            )
        if self.strategy == "fsdp" and self.precision not in _FSDP_PRECISIONS:
            raise_validation_error(
                f"precision: under fsdp it is one of {', '.join(_FSDP_PRECISIONS)}, not {self.precision}"
            )
        return self


@final
class Stage(BaseModel):
    """One stage of training, with one objective.

    Attributes:
        epochs: length in epochs; or give ``steps``.
        steps: length in optimizer steps.
        objective: losses by name.
        loss_weighting: adapts the weights of the losses (:mod:`limbeck.losses.weighting.loss_weighting`).
        feature_layers: for each network, module paths by name.
        training: changes to the recipe's training; an ``optimizer`` or ``scheduler`` without ``use`` changes settings
            of the recipe's, and one with ``use`` replaces it.
        freeze: paths of the student's modules whose weights do not change.
    """

    model_config = _STRICT_CONFIG
    name: Name
    epochs: Annotated[StrictInt, Field(ge=1)] | None = None
    steps: Annotated[StrictInt, Field(ge=1)] | None = None
    objective: Annotated[dict[Name, LossNode], Field(min_length=1)]
    loss_weighting: Node | None = None
    feature_layers: dict[StrictStr, dict[Name, StrictStr]] = {}
    training: dict[StrictStr, Any] = {}
    freeze: tuple[StrictStr, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            objective = value.get("objective")
            if objective is not None and not (objective and isinstance(objective, Mapping)):
                problem = "has no loss" if isinstance(objective, Mapping) else "is losses by name"
                raise_validation_error(f"objective {problem}, such as {{kd: {{use: KDLoss, temperature: 4}}}}")
            for key, loss in (objective or {}).items():
                if key in ("weight", "weights") and not (isinstance(loss, Mapping) and "use" in loss):
                    raise_validation_error(
                        f"objective has {key!r} beside its losses: write each weight inside its loss"
                    )
        return reject_unknown_keys(value, cls, "a stage")

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            problem = "has both epochs and steps" if self.epochs else "has no length"
            raise_validation_error(f"the stage {self.name!r} {problem}: give epochs or steps, one of the two")
        return self


@final
class CacheNode(BaseModel):
    """Teacher outputs cached on disk; the other settings are those of :class:`limbeck.teachers.CacheConfig`.

    Attributes:
        root: the folder of all caches; ``None``: ``$LIMBECK_CACHE``, or ``~/.cache/limbeck/teacher_outputs``.
    """

    model_config = _STRICT_CONFIG
    root: StrictStr | None = None
    top_k: Annotated[StrictInt, Field(ge=1)] | None = None
    tail: Literal["spread", "renormalized"] | None = None
    dtype: Literal["float16", "float32"] = "float16"
    feature_dtype: Literal["float16", "float32", "int8"] = "float16"
    pool_factor: Annotated[StrictInt, Field(ge=1)] = 1

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_keys(cls, value: Any) -> Any:
        return reject_unknown_keys(value, cls, "cache")

    @model_validator(mode="after")
    def _check_tail(self) -> Self:
        if self.top_k is None and self.tail is not None:
            raise_validation_error(
                "tail says what happens to the classes beyond `top_k`, and without `top_k` every logit is kept"
            )
        return self


@final
class ExportNode(BaseModel):
    """The formats that the trained student is exported to."""

    model_config = _STRICT_CONFIG
    to: tuple[ExportFormat, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_keys(cls, value: Any) -> Any:
        return reject_unknown_keys(value, cls, "export")


_DEFAULT_ENSEMBLE: Final = Node.model_validate({"use": "MeanLogits"})


@final
class Recipe(BaseModel):
    """All settings of a run; :func:`limbeck.recipe.load_recipe` reads one from YAML.

    Attributes:
        split_seed: seed of the splits, of the labeled samples and of the augmentation; ``None``: ``seed``. With it,
            runs of different seeds share their splits, pretrained teachers and cached outputs.
        ensemble: combines several teachers for losses without ``teacher`` (:mod:`limbeck.teachers`).
        self_teachers: teachers made of the student, new in each stage (:mod:`limbeck.teachers.self_teachers`).
        peers: students that are trained together with it (:class:`limbeck.distiller.PeerStudents`).
        generations: number of born-again generations, of which the student is the last.
    """

    model_config = _STRICT_CONFIG
    name: FileName = "run"
    seed: Annotated[StrictInt, Field(ge=0, lt=2**32)] = 0
    split_seed: Annotated[StrictInt, Field(ge=0, lt=2**32)] | None = None
    plugins: tuple[Plugin, ...] = ()
    task: Node
    data: Node
    teachers: dict[TeacherName, TeacherNode] = {}
    assistants: dict[TeacherName, Node] = {}
    assistant_mode: AssistantMode = "sequential"
    ensemble: Node = _DEFAULT_ENSEMBLE
    student: Node
    self_teachers: dict[TeacherName, Node] = {}
    peers: dict[TeacherName, Node] = {}
    generations: Annotated[StrictInt, Field(ge=2)] | None = None
    teacher_training: Stage | None = None
    stages: tuple[Stage, ...] = ()
    training: TrainingNode = TrainingNode()
    cache: CacheNode | None = None
    study: Study | None = None
    baselines: Annotated[tuple[StrictStr, ...], BeforeValidator(_parse_baselines)] = ("student_only",)
    export: ExportNode = ExportNode()
    num_threads: Annotated[StrictInt, Field(ge=1)] | None = None
    loggers: tuple[Literal["tensorboard", "mlflow"], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        reject_renamed(value)
        if isinstance(value.get("teacher_training"), Mapping):
            value = {**value, "teacher_training": {"name": "teacher_training", **value["teacher_training"]}}
        return reject_unknown_keys(expand_generations(value), cls, "a recipe")

    def training_order(self) -> list[TrainingPair]:
        """Each assistant and then the student with its teachers, in the order of training."""
        return training_order(list(self.teachers), [*self.assistants, "student"], assistant_mode=self.assistant_mode)

    @model_validator(mode="after")
    def _check_stage_training(self) -> Self:
        for config_path, stage in self.all_stages():
            self.stage_training(stage, config_path=config_path)
        return self

    def all_stages(self) -> list[tuple[str, Stage]]:
        """The training of the teacher, if there is one, and the stages, each with its path."""
        teacher_training = [("teacher_training", self.teacher_training)] if self.teacher_training is not None else []
        return [*teacher_training, *((f"stages.{i}", stage) for i, stage in enumerate(self.stages))]

    def stage_training(self, stage: Stage, *, config_path: str = "stage") -> TrainingNode:
        """The recipe's training with the changes of ``stage``."""
        config_path, settings = join_path(config_path, "training"), to_plain(self.training)
        for key, change in stage.training.items():
            is_partial = key in ("optimizer", "scheduler") and isinstance(change, Mapping) and "use" not in change
            if is_partial and settings[key] is None:
                raise LimbeckError(
                    f"{join_path(config_path, key)}: {format_value(change)} changes nothing, as the recipe has none: "
                    "add use"
                )
            settings[key] = {**settings[key], **change} if is_partial else change
        return validate(TrainingNode, settings, config_path)


_OPTIONAL_TEACHER_KEYS: Final = ("input_size", "normalize", "class_names", "missing_classes", "coverage")
"""Settings of a teacher that are written out only where they differ from the default."""


def validate(model: type[ModelT], data: Any, config_path: str = "") -> ModelT:
    """``data`` as ``model``; a mistake is a ``LimbeckError`` with the dotted path of the setting."""
    if not isinstance(data, Mapping):
        raise LimbeckError(
            f"{config_path or 'a recipe'}: {format_value(data)} is not a mapping of settings, such as `seed: 0`"
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first_error = error.errors(include_url=False)[0]
    keys = [step for step in first_error["loc"] if step != "[key]"]
    if first_error["type"] == "missing":
        raise LimbeckError(f"{join_path(config_path, *keys[:-1]) or 'recipe'}: {keys[-1]!r} is missing")
    raise LimbeckError(f"{join_path(config_path, *keys) or 'recipe'}: {describe_validation_error(first_error)}")


def to_plain(value: Any) -> Any:
    """A recipe, or a section of one, as plain data in the order of the schema.

    >>> to_plain(LossNode.model_validate({"use": "KDLoss", "weight": 0.9, "temperature": 4}))
    {'use': 'KDLoss', 'temperature': 4, 'weight': 0.9}
    """
    if isinstance(value, BaseModel):
        fields = {name: to_plain(getattr(value, name)) for name in type(value).model_fields}
        if isinstance(value, Stage):
            fields = {name: item for name, item in fields.items() if item is not None}
        if isinstance(value, LossNode) and not value.gather_distributed:
            del fields["gather_distributed"]
        if isinstance(value, TeacherNode):
            for name in _OPTIONAL_TEACHER_KEYS:
                if fields[name] == TeacherNode.model_fields[name].default:
                    del fields[name]
        extra = {name: to_plain(item) for name, item in (value.model_extra or {}).items()}
        return {"use": fields.pop("use"), **extra, **fields} if "use" in fields else fields
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value
