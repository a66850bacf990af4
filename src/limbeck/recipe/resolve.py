"""A recipe whose every node was compared with what it names: what remains is to build it.

Checking needs no data and trains nothing; what the data decides (classes, channels) is filled in when it is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from limbeck.core.temperature_range import Range
from limbeck.recipe import cross_checks as consistency
from limbeck.recipe import registry as aliases
from limbeck.recipe import resolve_node as build
from limbeck.recipe.class_names import class_names
from limbeck.recipe.messages import at
from limbeck.recipe.resolved_node import GIVEN, LATER, Checked
from limbeck.recipe.schema import Node, Recipe, Scheduler, Stage, Teacher, Term, Training, plain

__all__ = ["Plan", "StagePlan", "check", "resolved"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage, checked.

    Attributes:
        stage: as the recipe has it.
        training: the recipe's training with the changes of this stage.
        terms: the terms by name.
        weights: a number or a schedule for each.
        optimizer: takes the parameters: ``optimizer.build(parameters)``.
        balance: what moves the weights, or ``None``.
        scheduler: takes the optimizer and how often it will be stepped: ``scheduler.build(optimizer, steps=n)``.
    """

    stage: Stage
    training: Training
    terms: Mapping[str, Checked]
    weights: Mapping[str, float | Checked]
    balance: Checked | None
    optimizer: Checked
    scheduler: Checked | None

    @property
    def gathered(self) -> tuple[str, ...]:
        """The names of the terms that get what all processes said together."""
        return tuple(name for name, term in self.stage.objective.items() if term.gather)

    def objective(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fresh terms and their weights, as a ``Distiller`` takes them."""
        weights = {name: w.build() if isinstance(w, Checked) else w for name, w in self.weights.items()}
        return {name: term.build(**given) for name, term in self.terms.items()}, weights


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole recipe, checked: each part has ``build()``, and networks take ``classes=`` and ``channels=``."""

    recipe: Recipe
    task: Checked
    data: Checked
    student: Checked
    teachers: Mapping[str, Checked]
    combination: Checked
    assistants: Mapping[str, Checked]
    self_teachers: Mapping[str, Checked]
    peers: Mapping[str, Checked]
    teaching: StagePlan | None
    stages: tuple[StagePlan, ...]
    training: tuple[Checked, Checked | None]


def check(recipe: Recipe, *, given: Mapping[str, Any] | None = None) -> Plan:
    """Compare every node with the signature of what it names, and the parts with each other.

    Arguments:
        recipe: from :func:`~limbeck.recipe.load`.
        given: ``classes``, ``channels``, ``seed``, ``steps``, as far as they are known.

    Raises ``LimbeckError`` with the dotted place of the first mistake.
    """
    known = _Known(recipe.plugins, {**dict.fromkeys(GIVEN, LATER), **(given or {})})
    task = known.node(recipe.task, "task", "task")
    usual = getattr(task.target, "temperatures", None)
    if isinstance(usual, Range):
        known = _Known(recipe.plugins, {**known.given, "tau": usual.usual})
    named = [(place, stage, known.stage(recipe, stage, place)) for place, stage in recipe.each_stage()]
    plan = Plan(
        recipe=recipe,
        task=task,
        data=known.node(recipe.data, "data", "data"),
        student=known.node(recipe.student, "model", "student"),
        teachers={name: known.teacher(teacher, f"teachers.{name}") for name, teacher in recipe.teachers.items()},
        combination=known.node(recipe.combination, "combination", "combination"),
        assistants={
            name: known.node(assistant, "model", f"assistants.{name}") for name, assistant in recipe.assistants.items()
        },
        self_teachers={
            name: known.node(node, "self_teacher", f"self_teachers.{name}")
            for name, node in recipe.self_teachers.items()
        },
        peers={name: known.node(peer, "model", f"peers.{name}") for name, peer in recipe.peers.items()},
        training=known.training(recipe.training, "training"),
        teaching=next((stage for place, _, stage in named if place == "teaching"), None),
        stages=tuple(stage for place, _, stage in named if place != "teaching"),
    )
    consistency.check(recipe, {place: stage.terms for place, _, stage in named}, plan.teachers, plan.combination)
    return plan


def resolved(recipe: Recipe, *, given: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe with every setting of every node, defaults too; what waits for the data stays open."""
    plan = check(recipe, given=given)
    return recipe.model_copy(
        update={
            "task": _full(Node, plan.task),
            "data": _full(Node, plan.data),
            "student": _full(Node, plan.student),
            "teachers": {
                name: _full(Teacher, plan.teachers[name], **_own(teacher)) for name, teacher in recipe.teachers.items()
            },
            "combination": _full(Node, plan.combination) if len(recipe.teachers) > 1 else recipe.combination,
            "assistants": {name: _full(Node, assistant) for name, assistant in plan.assistants.items()},
            "self_teachers": {name: _full(Node, node) for name, node in plan.self_teachers.items()},
            "peers": {name: _full(Node, peer) for name, peer in plan.peers.items()},
            "teaching": None if plan.teaching is None else _full_stage(plan.teaching),
            "stages": tuple(map(_full_stage, plan.stages)),
            "training": _full_training(recipe.training, *plan.training),
        }
    )


@final
@dataclass(frozen=True, slots=True)
class _Known:
    """What is the same for every node of one recipe."""

    plugins: tuple[str, ...]
    given: Mapping[str, Any]

    def node(self, node: Any, kind: str | Sequence[str], place: str, *own: str) -> Checked:
        """``node`` without the keys that are the recipe's ``own``."""
        settings = {name: value for name, value in plain(node).items() if name not in own}
        return build.check(settings, kind, plugins=self.plugins, given=self.given, place=place)

    def teacher(self, teacher: Teacher, place: str) -> Checked:
        """The network of a teacher, or what only answers."""
        kinds, settings = ("model", "teacher"), {**plain(teacher)}
        target = aliases.find(teacher.use, kinds, plugins=self.plugins, place=place)[1]
        for name in _own(teacher):
            # A network that is built for one size of pictures takes it as well.
            if not (name == "size" and name in inspect.signature(target).parameters):
                settings.pop(name, None)
        given = dict(self.given)
        if teacher.classes is not None and not isinstance(teacher.classes, int):
            given["classes"] = len(class_names(teacher.classes, place=at(place, "classes")))
        return build.check(settings, kinds, plugins=self.plugins, given=given, place=place)

    def training(self, training: Training, place: str) -> tuple[Checked, Checked | None]:
        optimizer = self.node(training.optimizer, "optimizer", at(place, "optimizer"))
        if training.scheduler is None:
            return optimizer, None
        return optimizer, self.node(training.scheduler, "scheduler", at(place, "scheduler"), "per")

    def stage(self, recipe: Recipe, stage: Stage, place: str) -> StagePlan:
        training = recipe.training_of(stage, place=place)
        optimizer, scheduler = self.training(training, at(place, "training") if stage.training else "training")
        terms = {
            name: self.node(term, "term", at(place, "objective", name), "weight", "gather")
            for name, term in stage.objective.items()
        }
        weights = {
            name: self.node(term.weight, "schedule", at(place, "objective", name, "weight"))
            if isinstance(term.weight, Node)
            else term.weight
            for name, term in stage.objective.items()
        }
        balance = None if stage.balance is None else self.node(stage.balance, "balance", at(place, "balance"))
        return StagePlan(
            stage=stage, training=training, terms=terms, weights=weights, balance=balance, optimizer=optimizer,
            scheduler=scheduler,
        )  # fmt: skip


def _own(teacher: Teacher) -> dict[str, Any]:
    """What a teacher has beside the settings of its network."""
    said = plain(teacher)
    names = ["weights", "engine", "stop", "size", "normalize", "missing", "answers", *["classes"] * teacher.named]
    return {name: said[name] for name in names if name in said}


def _full(model: type[Any], checked: Checked, **own: Any) -> Any:
    return model.model_validate({**checked.resolved, **own})


def _full_training(training: Training, optimizer: Checked, scheduler: Checked | None) -> Training:
    per = {} if training.scheduler is None else {"per": training.scheduler.per}
    full = None if scheduler is None else _full(Scheduler, scheduler, **per)
    return training.model_copy(update={"optimizer": _full(Node, optimizer), "scheduler": full})


def _full_stage(plan: StagePlan) -> Stage:
    """The stage with whole terms; its changes of the training stay changes, so that the recipe's still reaches it."""
    terms = {}
    for name, checked in plan.terms.items():
        weight = plan.weights[name]
        own = {"weight": weight.resolved if isinstance(weight, Checked) else weight}
        terms[name] = _full(Term, checked, **own, gather=plan.stage.objective[name].gather)
    balance = None if plan.balance is None else _full(Node, plan.balance)
    return plan.stage.model_copy(update={"objective": terms, "balance": balance})
