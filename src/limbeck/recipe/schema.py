"""The keys of a recipe, their types and defaults; objects to build are nodes (:mod:`limbeck.recipe.node_schema`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, final

from pydantic import BeforeValidator, Field, model_validator

from limbeck.core.errors import LimbeckError
from limbeck.core.limits import MAX_EPOCHS, MAX_GENERATIONS, MAX_STEPS, MAX_THREADS
from limbeck.recipe.node_schema import (
    BaseNode,
    FileName,
    LossNode,
    ModelNode,
    Name,
    Node,
    Plugin,
    SchedulerNode,
    TeacherName,
    TeacherNode,
)
from limbeck.recipe.study_schema import Study
from limbeck.recipe.training_order import AssistantMode, TrainingPair, expand_generations, training_order
from limbeck.utils.renamed_keys import reject_renamed
from limbeck.utils.settings import CacheSettings, Strategy, TrainingSettings
from limbeck.utils.validation import (
    Settings,
    StrictInt,
    StrictStr,
    format_value,
    join_path,
    raise_validation_error,
    validate,
)

__all__ = ["CacheNode", "ExportNode", "Recipe", "Stage", "TrainingNode", "to_plain", "validate"]

_BASELINES: Final = ("student_only", "no_assistants")
_LOGGERS: Final = ("tensorboard", "mlflow")
_FSDP_PRECISIONS: Final = ("32-true", "bf16-mixed", "bf16-true", "16-true")


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


def _parse_logger(value: Any) -> Any:
    if isinstance(value, str) and value not in _LOGGERS and ":" not in value:
        names = ", ".join(map(repr, _LOGGERS))
        raise_validation_error(
            f"{format_value(value)} is not one of {names}, nor a class of your own as package.module:Name"
        )
    return value if value in _LOGGERS else Node.model_validate(value)


@final
class TrainingNode(TrainingSettings):
    """How to train; the other settings are those of :class:`limbeck.utils.settings.TrainingSettings`.

    Attributes:
        precision: one of Lightning Fabric's.
        strategy: how the processes that ``torchrun`` started share the work.
        devices: the number of processes that the recipe is for; any other number is an error.
    """

    omit_if_default = ("parameter_groups", "validation_batch_size")
    optimizer: Node = Node.model_validate({"use": "AdamW", "lr": 1e-3})
    scheduler: SchedulerNode | None = None
    precision: Literal[
        "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "transformer-engine",
        "transformer-engine-float16",
    ] = "32-true"  # fmt: skip
    strategy: Strategy = "auto"
    devices: Annotated[StrictInt, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check_strategy(self) -> Self:
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
class Stage(Settings):
    """One stage of training, with one objective.

    Attributes:
        name: of the stage, in files and progress bars.
        epochs: length in epochs, passes over all training samples; or give ``steps``.
        steps: length in optimizer steps.
        objective: losses by name.
        loss_weighting: adapts the weights of the losses (:mod:`limbeck.losses.weighting`).
        feature_layers: for each network, module paths by name.
        training: changes to the recipe's training; an ``optimizer`` or ``scheduler`` without ``use`` changes settings
            of the recipe's, and one with ``use`` replaces it.
        freeze: paths of the student's modules whose weights do not change.
        subset: the training samples of a student with a teacher: ``all``, or those with a label (``labeled``), for a
            study of what unlabeled samples add. A baseline is always trained on those with a label.
    """

    display_name = "a stage"
    omit_if_default = ("epochs", "steps", "loss_weighting", "subset")
    name: Name
    epochs: Annotated[StrictInt, Field(ge=1, le=MAX_EPOCHS)] | None = None
    steps: Annotated[StrictInt, Field(ge=1, le=MAX_STEPS)] | None = None
    objective: dict[Name, LossNode]
    loss_weighting: Node | None = None
    feature_layers: dict[StrictStr, dict[Name, StrictStr]] = {}
    training: dict[StrictStr, Any] = {}
    freeze: tuple[StrictStr, ...] = ()
    subset: Literal["all", "labeled"] = "all"

    @model_validator(mode="before")
    @classmethod
    def _check_objective(cls, value: Any) -> Any:
        objective = value.get("objective") if isinstance(value, Mapping) else None
        if objective is None:
            return value
        if not objective or not isinstance(objective, Mapping):
            problem = "has no loss" if isinstance(objective, Mapping) else "is losses by name"
            raise_validation_error(f"objective {problem}, such as {{kd: {{use: KDLoss, temperature: 4}}}}")
        for key in {"weight", "weights"} & objective.keys():
            if not (isinstance(objective[key], Mapping) and "use" in objective[key]):
                raise_validation_error(f"objective has {key!r} beside its losses: write each weight inside its loss")
        return value

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            problem = "has both epochs and steps" if self.epochs else "has no length"
            raise_validation_error(f"the stage {self.name!r} {problem}: give epochs or steps, one of the two")
        return self


@final
class CacheNode(CacheSettings):
    """Teacher outputs cached on disk; the other settings are those of :class:`limbeck.teachers.CacheConfig`.

    Attributes:
        root: the folder of all caches; ``None``: ``$LIMBECK_CACHE``, or ``~/.cache/limbeck/teacher_outputs``.
    """

    root: StrictStr | None = None


@final
class ExportNode(Settings):
    """The formats that the trained student is exported to.

    Attributes:
        to: ``onnx``, which is compared with torch after the export; empty: none.
    """

    display_name = "export"
    to: tuple[Literal["onnx"], ...] = ()


@final
class Recipe(Settings):
    """All settings of a run; :func:`limbeck.recipe.load_recipe` reads one from YAML.

    Attributes:
        name: of the run, and of its folder ``runs/NAME``; that of the file without ``.yaml`` where it is left out.
        seed: of the initial weights, the order of the samples and dropout.
        split_seed: seed of the splits, of the labeled samples and of the augmentation; ``None``: ``seed``. With it,
            runs of different seeds share their splits, pretrained teachers and cached outputs.
        plugins: packages of yours whose classes and functions ``use`` may name as ``package.module:Name``. Importing a
            package runs its code.
        task: what a batch means and what is measured.
        data: where samples come from, how they are split and augmented.
        teachers: networks or external teachers by name.
        assistants: networks by name, each distilled from the teachers before the student is distilled from it.
        assistant_mode: each network learns from the last one before it (``sequential``), or from all before it
            (``dense``).
        ensemble: combines several teachers for losses without ``teacher`` (:mod:`limbeck.teachers`).
        student: the network to train.
        self_teachers: teachers made of the student, new in each stage (:mod:`limbeck.teachers.self_teachers`).
        peers: students that are trained together with it (:class:`limbeck.distiller.PeerStudents`).
        generations: number of born-again generations, of which the student is the last.
        teacher_training: the stage that trains teachers without weights, on the labeled samples; the teacher is called
            ``student`` in it.
        stages: the training of the student, in order.
        training: optimizer, batch size and other settings of every training.
        cache: store teacher outputs on disk; ``None``: compute them in each step.
        study: variants and seeds for ``limbeck study``.
        baselines: what the student is compared with: ``student_only``, the same student without a teacher, and
            ``no_assistants``; ``[]`` trains none.
        export: formats of the trained student.
        num_threads: of torch on the CPU; ``None``: torch's default.
        loggers: that get the metrics of every epoch: ``tensorboard``, ``mlflow``, or classes of your own with
            ``log_metrics(metrics, step)``, as loggers of Lightning Fabric have. ``finalize(status)``, if there is one,
            is called after each training, with ``success`` or ``failed``.
        callbacks: subclasses of :class:`limbeck.training.callbacks.Callback` of your own, new for each training.
    """

    display_name = "a recipe"
    name: FileName = "run"
    seed: Annotated[StrictInt, Field(ge=0, lt=2**32)] = 0
    split_seed: Annotated[StrictInt, Field(ge=0, lt=2**32)] | None = None
    plugins: tuple[Plugin, ...] = ()
    task: Node
    data: Node
    teachers: dict[TeacherName, TeacherNode] = {}
    assistants: dict[TeacherName, ModelNode] = {}
    assistant_mode: AssistantMode = "sequential"
    ensemble: Node = Node(use="MeanLogits")
    student: ModelNode
    self_teachers: dict[TeacherName, Node] = {}
    peers: dict[TeacherName, ModelNode] = {}
    generations: Annotated[StrictInt, Field(ge=2, le=MAX_GENERATIONS)] | None = None
    teacher_training: Stage | None = None
    stages: tuple[Stage, ...] = ()
    training: TrainingNode = TrainingNode()
    cache: CacheNode | None = None
    study: Study | None = None
    baselines: Annotated[tuple[StrictStr, ...], BeforeValidator(_parse_baselines)] = ("student_only",)
    export: ExportNode = ExportNode()
    num_threads: Annotated[StrictInt, Field(ge=1, le=MAX_THREADS)] | None = None
    loggers: tuple[Annotated[Literal["tensorboard", "mlflow"] | Node, BeforeValidator(_parse_logger)], ...] = ()
    callbacks: tuple[Node, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        reject_renamed(value)
        if isinstance(value.get("teacher_training"), Mapping):
            value = {**value, "teacher_training": {"name": "teacher_training", **value["teacher_training"]}}
        return expand_generations(value)

    @model_validator(mode="after")
    def _check_stage_training(self) -> Self:
        for config_path, stage in self.all_stages():
            self.stage_training(stage, config_path=config_path)
        return self

    def training_order(self) -> list[TrainingPair]:
        """Each assistant and then the student with its teachers, in the order of training."""
        return training_order(list(self.teachers), [*self.assistants, "student"], assistant_mode=self.assistant_mode)

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


def to_plain(value: Any) -> Any:
    """A recipe, or a section of one, as plain data in the order of the schema.

    >>> to_plain(LossNode.model_validate({"use": "KDLoss", "weight": 0.9, "temperature": 4}))
    {'use': 'KDLoss', 'temperature': 4, 'weight': 0.9}
    """
    if isinstance(value, BaseNode | Settings):
        fields = {
            name: to_plain(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if name not in value.omit_if_default or getattr(value, name) != field.default
        }
        extra = {name: to_plain(item) for name, item in (value.model_extra or {}).items()}
        return {"use": fields.pop("use"), **extra, **fields} if "use" in fields else fields
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value
