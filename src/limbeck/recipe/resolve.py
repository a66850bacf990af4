"""A recipe whose every node was compared with what it names: what remains is to build it.

Checking needs no data and trains nothing; what the data decides (classes, channels) is filled in when it is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from limbeck.core.temperature_range import Range
from limbeck.recipe import cross_checks, registry
from limbeck.recipe.class_names import load_class_names
from limbeck.recipe.messages import join_path
from limbeck.recipe.resolve_node import resolve_node
from limbeck.recipe.resolved_node import DEFERRED, PROVIDED, ResolvedNode
from limbeck.recipe.schema import LossNode, Node, Recipe, SchedulerNode, Stage, TeacherNode, TrainingNode, to_plain

__all__ = ["ResolvedRecipe", "ResolvedStage", "fill_defaults", "resolve_recipe"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedStage:
    """One stage, checked.

    Attributes:
        stage: as the recipe has it.
        training: the recipe's training with the changes of this stage.
        losses: the losses by name.
        weights: a number or a schedule for each.
        optimizer: takes the parameters: ``optimizer.build(parameters)``.
        loss_weighting: what moves the weights, or ``None``.
        scheduler: takes the optimizer and how often it will be stepped: ``scheduler.build(optimizer, steps=n)``.
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
        """The names of the losses that get what all processes said together."""
        return tuple(name for name, loss in self.stage.objective.items() if loss.gather_distributed)

    def build_objective(self, **provided: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fresh losses and their weights, as a ``Distiller`` takes them."""
        weights = {
            name: weight.build() if isinstance(weight, ResolvedNode) else weight
            for name, weight in self.weights.items()
        }
        return {name: loss.build(**provided) for name, loss in self.losses.items()}, weights


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRecipe:
    """A whole recipe, checked: each part has ``build()``, and networks take ``classes=`` and ``channels=``."""

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
    """Compare every node with the signature of what it names, and the parts with each other.

    Arguments:
        recipe: from :func:`~limbeck.recipe.load_recipe`.
        provided: ``classes``, ``channels``, ``seed``, ``steps``, as far as they are known.

    Raises ``LimbeckError`` with the dotted place of the first mistake.
    """
    resolver = _Resolver(recipe.plugins, {**dict.fromkeys(PROVIDED, DEFERRED), **(provided or {})})
    task = resolver.resolve_node(recipe.task, "task", "task")
    temperature_range = getattr(task.target, "temperatures", None)
    if isinstance(temperature_range, Range):
        resolver = _Resolver(recipe.plugins, {**resolver.provided, "temperature": temperature_range.default})
    resolved_stages = [
        (config_path, stage, resolver.resolve_stage(recipe, stage, config_path))
        for config_path, stage in recipe.all_stages()
    ]
    result = ResolvedRecipe(
        recipe=recipe,
        task=task,
        data=resolver.resolve_node(recipe.data, "data", "data"),
        student=resolver.resolve_node(recipe.student, "model", "student"),
        teachers={
            name: resolver.resolve_teacher(teacher, f"teachers.{name}") for name, teacher in recipe.teachers.items()
        },
        ensemble=resolver.resolve_node(recipe.ensemble, "ensemble", "ensemble"),
        assistants={
            name: resolver.resolve_node(assistant, "model", f"assistants.{name}")
            for name, assistant in recipe.assistants.items()
        },
        self_teachers={
            name: resolver.resolve_node(node, "self_teacher", f"self_teachers.{name}")
            for name, node in recipe.self_teachers.items()
        },
        peers={name: resolver.resolve_node(peer, "model", f"peers.{name}") for name, peer in recipe.peers.items()},
        training=resolver.resolve_training(recipe.training, "training"),
        teacher_training=next(
            (stage for config_path, _, stage in resolved_stages if config_path == "teacher_training"), None
        ),
        stages=tuple(stage for config_path, _, stage in resolved_stages if config_path != "teacher_training"),
    )
    cross_checks.check_consistency(
        recipe,
        {config_path: stage.losses for config_path, _, stage in resolved_stages},
        result.teachers,
        result.ensemble,
    )
    return result


def fill_defaults(recipe: Recipe, *, provided: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe with every setting of every node, defaults too; what waits for the data stays open."""
    resolved_recipe = resolve_recipe(recipe, provided=provided)
    return recipe.model_copy(
        update={
            "task": _to_schema(Node, resolved_recipe.task),
            "data": _to_schema(Node, resolved_recipe.data),
            "student": _to_schema(Node, resolved_recipe.student),
            "teachers": {
                name: _to_schema(TeacherNode, resolved_recipe.teachers[name], **_teacher_settings(teacher))
                for name, teacher in recipe.teachers.items()
            },
            "ensemble": _to_schema(Node, resolved_recipe.ensemble) if len(recipe.teachers) > 1 else recipe.ensemble,
            "assistants": {name: _to_schema(Node, assistant) for name, assistant in resolved_recipe.assistants.items()},
            "self_teachers": {name: _to_schema(Node, node) for name, node in resolved_recipe.self_teachers.items()},
            "peers": {name: _to_schema(Node, peer) for name, peer in resolved_recipe.peers.items()},
            "teacher_training": None
            if resolved_recipe.teacher_training is None
            else _stage_with_defaults(resolved_recipe.teacher_training),
            "stages": tuple(map(_stage_with_defaults, resolved_recipe.stages)),
            "training": _training_with_defaults(recipe.training, *resolved_recipe.training),
        }
    )


@final
@dataclass(frozen=True, slots=True)
class _Resolver:
    """What is the same for every node of one recipe."""

    plugins: tuple[str, ...]
    provided: Mapping[str, Any]

    def resolve_node(self, node: Any, kind: str | Sequence[str], config_path: str, *exclude: str) -> ResolvedNode:
        """``node`` without the keys that are the recipe's own (``exclude``)."""
        settings = {name: value for name, value in to_plain(node).items() if name not in exclude}
        return resolve_node(settings, kind, plugins=self.plugins, provided=self.provided, config_path=config_path)

    def resolve_teacher(self, teacher: TeacherNode, config_path: str) -> ResolvedNode:
        """The network of a teacher, or what only answers."""
        kinds, settings = ("model", "teacher"), {**to_plain(teacher)}
        target = registry.resolve_target(teacher.use, kinds, plugins=self.plugins, config_path=config_path)[1]
        for name in _teacher_settings(teacher):
            settings.pop(name, None)
        # A network that is built for one size of pictures takes it as well.
        if teacher.input_size is not None and "size" in inspect.signature(target).parameters:
            settings.setdefault("size", teacher.input_size)
        provided = dict(self.provided)
        if teacher.class_names is not None:
            provided["classes"] = len(
                load_class_names(teacher.class_names, config_path=join_path(config_path, "class_names"))
            )
        return resolve_node(settings, kinds, plugins=self.plugins, provided=provided, config_path=config_path)

    def resolve_training(self, training: TrainingNode, config_path: str) -> tuple[ResolvedNode, ResolvedNode | None]:
        optimizer = self.resolve_node(training.optimizer, "optimizer", join_path(config_path, "optimizer"))
        if training.scheduler is None:
            return optimizer, None
        return optimizer, self.resolve_node(
            training.scheduler, "scheduler", join_path(config_path, "scheduler"), "interval"
        )

    def resolve_stage(self, recipe: Recipe, stage: Stage, config_path: str) -> ResolvedStage:
        training = recipe.stage_training(stage, config_path=config_path)
        optimizer, scheduler = self.resolve_training(
            training, join_path(config_path, "training") if stage.training else "training"
        )
        losses = {
            name: self.resolve_node(
                loss, "loss", join_path(config_path, "objective", name), "weight", "gather_distributed"
            )
            for name, loss in stage.objective.items()
        }
        weights = {
            name: self.resolve_node(loss.weight, "schedule", join_path(config_path, "objective", name, "weight"))
            if isinstance(loss.weight, Node)
            else loss.weight
            for name, loss in stage.objective.items()
        }
        loss_weighting = (
            None
            if stage.loss_weighting is None
            else self.resolve_node(stage.loss_weighting, "loss_weighting", join_path(config_path, "loss_weighting"))
        )
        return ResolvedStage(
            stage=stage, training=training, losses=losses, weights=weights, loss_weighting=loss_weighting, optimizer=optimizer,
            scheduler=scheduler,
        )  # fmt: skip


def _teacher_settings(teacher: TeacherNode) -> dict[str, Any]:
    """What a teacher has beside the settings of its network."""
    settings = to_plain(teacher)
    names = [name for name in TeacherNode.model_fields if name != "use"]
    return {name: settings[name] for name in names if name in settings}


def _to_schema(schema_class: type[Any], resolved_node: ResolvedNode, **extra: Any) -> Any:
    return schema_class.model_validate({**resolved_node.config, **extra})


def _training_with_defaults(
    training: TrainingNode, optimizer: ResolvedNode, scheduler: ResolvedNode | None
) -> TrainingNode:
    interval = {} if training.scheduler is None else {"interval": training.scheduler.interval}
    full_scheduler = None if scheduler is None else _to_schema(SchedulerNode, scheduler, **interval)
    return training.model_copy(update={"optimizer": _to_schema(Node, optimizer), "scheduler": full_scheduler})


def _stage_with_defaults(resolved_stage: ResolvedStage) -> Stage:
    """The stage with whole losses; its changes of the training stay changes, so that the recipe's still reaches it."""
    losses = {}
    for name, resolved_node in resolved_stage.losses.items():
        weight = resolved_stage.weights[name]
        extra = {"weight": weight.config if isinstance(weight, ResolvedNode) else weight}
        losses[name] = _to_schema(
            LossNode, resolved_node, **extra, gather_distributed=resolved_stage.stage.objective[name].gather_distributed
        )
    loss_weighting = None if resolved_stage.loss_weighting is None else _to_schema(Node, resolved_stage.loss_weighting)
    return resolved_stage.stage.model_copy(update={"objective": losses, "loss_weighting": loss_weighting})
