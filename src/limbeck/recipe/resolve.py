"""A recipe with every node checked, ready to build.

Checking reads no data and trains nothing; settings that the data decides (classes, channels) are filled in at building.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from limbeck.recipe import registry
from limbeck.recipe.cross_checks import check_consistency
from limbeck.recipe.node_schema import BaseNode, Node, TeacherNode, load_class_names
from limbeck.recipe.resolve_node import resolve_node
from limbeck.recipe.resolved_node import DEFAULT_FACTS, DEFERRED, PROVIDED, ResolvedNode
from limbeck.recipe.schema import Recipe, Stage, TrainingNode, to_plain
from limbeck.utils.validation import join_path, validate

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

    @property
    def loss_nodes(self) -> list[ResolvedNode]:
        """The losses, then the schedules of their weights, and the loss weighting."""
        nodes = [*self.losses.values(), *self.weights.values(), self.loss_weighting]
        return [node for node in nodes if isinstance(node, ResolvedNode)]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRecipe:
    """A recipe with its nodes checked: each has ``build()``, which takes the facts of the data."""

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
    loggers: tuple[str | ResolvedNode, ...]
    callbacks: tuple[ResolvedNode, ...]


def resolve_recipe(recipe: Recipe, *, provided: Mapping[str, Any] | None = None) -> ResolvedRecipe:
    """Check every node against the signature of what it builds, and the settings against each other.

    Args:
        recipe: from :func:`~limbeck.recipe.load_recipe`.
        provided: the facts of the data, ``seed`` and ``steps``, those that are known.

    Raises:
        LimbeckError: with the dotted path of the first mistake.
    """
    from limbeck.losses.temperature import Range

    source = registry.resolve_target(recipe.data.use, ["data"], plugins=recipe.plugins, config_path="data")[1]
    names = (*PROVIDED, *getattr(source, "provides", DEFAULT_FACTS))
    resolver = _Resolver(recipe.plugins, {**dict.fromkeys(names, DEFERRED), **(provided or {})})
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
        teacher_training=stages.pop("teacher_training", None),
        stages=tuple(stages.values()),
        loggers=tuple(
            node if isinstance(node, str) else resolver.resolve_node(node, "logger", f"loggers.{index}")
            for index, node in enumerate(recipe.loggers)
        ),
        callbacks=tuple(
            resolver.resolve_node(node, "callback", f"callbacks.{index}") for index, node in enumerate(recipe.callbacks)
        ),
    )
    check_consistency(result)
    return result


def fill_defaults(recipe: Recipe, *, provided: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe with every setting of every node, defaults included; settings that the data decides stay open."""
    resolved = resolve_recipe(recipe, provided=provided)
    stages = [*([resolved.teacher_training] if resolved.teacher_training else []), *resolved.stages]
    nodes = [
        resolved.task, resolved.data, resolved.student, *resolved.teachers.values(), *resolved.assistants.values(),
        *resolved.self_teachers.values(), *resolved.peers.values(), *resolved.training,
        *([resolved.ensemble] if len(recipe.teachers) > 1 else []),
        *(node for stage in stages for node in stage.loss_nodes), *resolved.callbacks,
        *(node for node in resolved.loggers if isinstance(node, ResolvedNode)),
    ]  # fmt: skip
    document = to_plain(recipe)
    for node in nodes:
        if node is not None:
            *parents, last = node.config_path.split(".")
            container = document
            for parent in parents:
                container = container[int(parent) if isinstance(container, list) else parent]
            key = int(last) if isinstance(container, list) else last
            recipe_keys = container[key].keys() - node.settings.keys() - {"use"}
            container[key] = {**node.config, **{name: container[key][name] for name in recipe_keys}}
    return validate(Recipe, document)


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

    def resolve_nodes(self, nodes: Mapping[str, BaseNode], kind: str, config_path: str) -> dict[str, ResolvedNode]:
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
    names = TeacherNode.model_fields.keys() - {"use"}
    return {name: value for name, value in to_plain(teacher).items() if name in names}
