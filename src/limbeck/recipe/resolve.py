"""A recipe with every node checked, ready to build.

Checking reads no data and trains nothing; settings that the data decides (classes, channels) are filled in at building.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from limbeck.core.temperature_range import Range
from limbeck.recipe import registry
from limbeck.recipe.cross_checks import check_consistency
from limbeck.recipe.node_schema import load_class_names
from limbeck.recipe.resolve_node import resolve_node
from limbeck.recipe.resolved_node import DEFERRED, PROVIDED, ResolvedNode
from limbeck.recipe.schema import LossNode, Node, Recipe, SchedulerNode, Stage, TeacherNode, TrainingNode, to_plain
from limbeck.recipe.validation import join_path

__all__ = ["ResolvedRecipe", "ResolvedStage", "fill_defaults", "resolve_recipe"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedStage:
    """One stage with its nodes checked.

    Attributes:
        stage: the stage of the recipe.
        training: the recipe's training with the changes of this stage.
        losses: the losses by name.
        weights: a number or a schedule for each.
        loss_weighting: adapts the weights, or ``None``.
        optimizer: ``optimizer.build(parameters)``.
        scheduler: ``scheduler.build(optimizer, steps=n)``, with the number of times it is stepped.
    """

    stage: Stage
    training: TrainingNode
    losses: Mapping[str, ResolvedNode]
    weights: Mapping[str, float | ResolvedNode]
    loss_weighting: ResolvedNode | None
    optimizer: ResolvedNode
    scheduler: ResolvedNode | None

    @property
    def gathered_losses(self) -> tuple[str, ...]:
        """The names of the losses that get the outputs of all processes."""
        return tuple(name for name, loss in self.stage.objective.items() if loss.gather_distributed)

    def build_objective(self, **provided: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """New losses and their weights, the arguments of a ``Distiller``."""
        weights = {
            name: weight.build() if isinstance(weight, ResolvedNode) else weight
            for name, weight in self.weights.items()
        }
        return {name: loss.build(**provided) for name, loss in self.losses.items()}, weights

    def fill_defaults(self) -> Stage:
        """The stage with all settings of its losses; its ``training`` stays a set of changes."""
        losses = {
            name: _to_schema(
                LossNode, node,
                weight=weight.config if isinstance(weight := self.weights[name], ResolvedNode) else weight,
                gather_distributed=self.stage.objective[name].gather_distributed,
            )
            for name, node in self.losses.items()
        }  # fmt: skip
        return self.stage.model_copy(
            update={"objective": losses, "loss_weighting": _to_schema(Node, self.loss_weighting)}
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRecipe:
    """A recipe with its nodes checked: each has ``build()``, and networks take ``classes=`` and ``channels=``."""

    recipe: Recipe
    task: ResolvedNode
    data: ResolvedNode
    student: ResolvedNode
    teachers: Mapping[str, ResolvedNode]
    ensemble: ResolvedNode
    assistants: Mapping[str, ResolvedNode]
    self_teachers: Mapping[str, ResolvedNode]
    peers: Mapping[str, ResolvedNode]
    teacher_training: ResolvedStage | None
    stages: tuple[ResolvedStage, ...]
    training: tuple[ResolvedNode, ResolvedNode | None]


def resolve_recipe(recipe: Recipe, *, provided: Mapping[str, Any] | None = None) -> ResolvedRecipe:
    """Check every node against the signature of what it builds, and the settings against each other.

    Args:
        recipe: from :func:`~limbeck.recipe.load_recipe`.
        provided: ``classes``, ``channels``, ``seed``, ``steps``, those that are known.

    Raises:
        LimbeckError: with the dotted path of the first mistake.
    """
    resolver = _Resolver(recipe.plugins, {**dict.fromkeys(PROVIDED, DEFERRED), **(provided or {})})
    task = resolver.resolve_node(recipe.task, "task", "task")
    temperature_range = getattr(task.target, "temperatures", None)
    if isinstance(temperature_range, Range):
        resolver = _Resolver(recipe.plugins, {**resolver.provided, "temperature": temperature_range.default})
    stages = {path: resolver.resolve_stage(recipe, stage, path) for path, stage in recipe.all_stages()}
    result = ResolvedRecipe(
        recipe=recipe,
        task=task,
        data=resolver.resolve_node(recipe.data, "data", "data"),
        student=resolver.resolve_node(recipe.student, "model", "student"),
        teachers={name: resolver.resolve_teacher(node, f"teachers.{name}") for name, node in recipe.teachers.items()},
        ensemble=resolver.resolve_node(recipe.ensemble, "ensemble", "ensemble"),
        assistants=resolver.resolve_nodes(recipe.assistants, "model", "assistants"),
        self_teachers=resolver.resolve_nodes(recipe.self_teachers, "self_teacher", "self_teachers"),
        peers=resolver.resolve_nodes(recipe.peers, "model", "peers"),
        training=resolver.resolve_training(recipe.training, "training"),
        teacher_training=stages.get("teacher_training"),
        stages=tuple(stage for path, stage in stages.items() if path != "teacher_training"),
    )
    check_consistency(recipe, {path: stage.losses for path, stage in stages.items()}, result.teachers, result.ensemble)
    return result


def fill_defaults(recipe: Recipe, *, provided: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe with every setting of every node, defaults included; settings that the data decides stay open."""
    resolved = resolve_recipe(recipe, provided=provided)
    optimizer, scheduler = resolved.training
    interval = {} if recipe.training.scheduler is None else {"interval": recipe.training.scheduler.interval}
    training = {
        "optimizer": _to_schema(Node, optimizer), "scheduler": _to_schema(SchedulerNode, scheduler, **interval),
    }  # fmt: skip
    nodes = {
        key: {name: _to_schema(Node, node) for name, node in getattr(resolved, key).items()}
        for key in ("assistants", "self_teachers", "peers")
    }
    teachers = {
        name: _to_schema(TeacherNode, resolved.teachers[name], **_teacher_settings(teacher))
        for name, teacher in recipe.teachers.items()
    }
    return recipe.model_copy(
        update={
            **{key: _to_schema(Node, getattr(resolved, key)) for key in ("task", "data", "student")},
            **nodes,
            "teachers": teachers,
            "ensemble": _to_schema(Node, resolved.ensemble) if len(recipe.teachers) > 1 else recipe.ensemble,
            "teacher_training": resolved.teacher_training and resolved.teacher_training.fill_defaults(),
            "stages": tuple(stage.fill_defaults() for stage in resolved.stages),
            "training": recipe.training.model_copy(update=training),
        }
    )


@final
@dataclass(frozen=True, slots=True)
class _Resolver:
    """Resolves the nodes of one recipe."""

    plugins: tuple[str, ...]
    provided: Mapping[str, Any]

    def resolve_node(self, node: Any, kind: str | Sequence[str], config_path: str, *exclude: str) -> ResolvedNode:
        """``node`` without the keys ``exclude``, which the recipe reads itself."""
        settings = {name: value for name, value in to_plain(node).items() if name not in exclude}
        return resolve_node(settings, kind, plugins=self.plugins, provided=self.provided, config_path=config_path)

    def resolve_nodes(self, nodes: Mapping[str, Node], kind: str, config_path: str) -> dict[str, ResolvedNode]:
        """``nodes`` by name."""
        return {name: self.resolve_node(node, kind, join_path(config_path, name)) for name, node in nodes.items()}

    def resolve_teacher(self, teacher: TeacherNode, config_path: str) -> ResolvedNode:
        """The network of a teacher, or an external teacher."""
        kinds = ("model", "teacher")
        target = registry.resolve_target(teacher.use, kinds, plugins=self.plugins, config_path=config_path)[1]
        settings = {name: value for name, value in to_plain(teacher).items() if name not in _teacher_settings(teacher)}
        # A network that is built for one image size takes it as well.
        if teacher.input_size is not None and "size" in inspect.signature(target).parameters:
            settings.setdefault("size", teacher.input_size)
        provided = dict(self.provided)
        if teacher.class_names is not None:
            class_names = load_class_names(teacher.class_names, config_path=join_path(config_path, "class_names"))
            provided["classes"] = len(class_names)
        return resolve_node(settings, kinds, plugins=self.plugins, provided=provided, config_path=config_path)

    def resolve_training(self, training: TrainingNode, config_path: str) -> tuple[ResolvedNode, ResolvedNode | None]:
        """The optimizer, and the scheduler if there is one."""
        optimizer = self.resolve_node(training.optimizer, "optimizer", join_path(config_path, "optimizer"))
        if training.scheduler is None:
            return optimizer, None
        scheduler_path = join_path(config_path, "scheduler")
        return optimizer, self.resolve_node(training.scheduler, "scheduler", scheduler_path, "interval")

    def resolve_stage(self, recipe: Recipe, stage: Stage, config_path: str) -> ResolvedStage:
        """A stage with its losses, their weights, and its training."""
        training = recipe.stage_training(stage, config_path=config_path)
        training_path = join_path(config_path, "training") if stage.training else "training"
        optimizer, scheduler = self.resolve_training(training, training_path)
        losses, weights = {}, {}
        for name, loss in stage.objective.items():
            path = join_path(config_path, "objective", name)
            losses[name] = self.resolve_node(loss, "loss", path, "weight", "gather_distributed")
            weights[name] = (
                self.resolve_node(loss.weight, "schedule", join_path(path, "weight"))
                if isinstance(loss.weight, Node)
                else loss.weight
            )
        loss_weighting = stage.loss_weighting and self.resolve_node(
            stage.loss_weighting, "loss_weighting", join_path(config_path, "loss_weighting")
        )
        return ResolvedStage(
            stage=stage, training=training, losses=losses, weights=weights, loss_weighting=loss_weighting,
            optimizer=optimizer, scheduler=scheduler,
        )  # fmt: skip


def _teacher_settings(teacher: TeacherNode) -> dict[str, Any]:
    """The settings of a teacher that are not settings of its network."""
    settings = to_plain(teacher)
    return {name: settings[name] for name in TeacherNode.model_fields if name != "use" and name in settings}


def _to_schema(schema_class: type[Any], node: ResolvedNode | None, **extra: Any) -> Any:
    return node and schema_class.model_validate({**node.config, **extra})
