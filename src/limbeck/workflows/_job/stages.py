"""The distiller and the training settings of one stage of a recipe."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Loss, Task, Teacher, loss_attribute
from limbeck.core.roles import Role
from limbeck.core.schedules import Schedule
from limbeck.distiller import Distiller, MutualTask, PeerStudents, loss_per_teacher, scale_weights_for_peers
from limbeck.losses import CrossEntropyLoss
from limbeck.recipe import Recipe, ResolvedStage
from limbeck.recipe.resolve_node import resolve_node
from limbeck.recipe.study_schema import BASELINES
from limbeck.training import TrainingConfig
from limbeck.training.progress_bar import training_title
from limbeck.workflows._job.facts import data_facts
from limbeck.workflows._job.teachers import TeacherFactory, make_recipe_teacher

if TYPE_CHECKING:
    from limbeck.workflows._job.job import Job

BASELINE_PHASES: Final = (str(Role.BASELINE), *BASELINES)
"""Phases that train the student without a teacher: the one of a run, and those of a study's trials."""


def make_distiller(
    job: Job,
    network: nn.Module,
    teachers: Mapping[str, nn.Module],
    stage: ResolvedStage,
    *,
    phase: str,
    make_teacher: TeacherFactory | None = None,
) -> Distiller:
    """Student, teachers and objective of one stage; a baseline has the supervised losses only.

    Args:
        job: the recipe with its data.
        network: the student.
        teachers: networks by name.
        stage: of the recipe.
        phase: the name of the student's model in the record.
        make_teacher: makes a teacher of a network; ``None``: with the recipe's backend, cache and coverage.
    """
    facts, is_baseline = data_facts(job.data), phase in BASELINE_PHASES
    objective, weights = stage.build_objective(**facts, seed=job.recipe.seed)
    gather_losses = stage.gathered_losses
    if job.recipe.assistant_mode == "dense" and not is_baseline:
        objective, weights = loss_per_teacher(objective, weights, list(teachers))
        gather_losses += tuple(f"{name}-{teacher}" for name in gather_losses for teacher in teachers)
    has_distillation_loss = any(not loss_attribute(loss, "supervised") for loss in objective.values())
    layers = stage.stage.feature_layers if has_distillation_loss and not is_baseline else {}
    loss_teachers: dict[str, Teacher] = {}
    if has_distillation_loss:
        make_teacher = make_teacher or make_recipe_teacher
        loss_teachers = {name: make_teacher(job, name, teacher, layers.get(name)) for name, teacher in teachers.items()}
    # An assistant is the student of its own training, and its layers have its own name.
    feature_layers = {"student": layers.get(phase if phase in job.plan.assistants else "student", {})}
    if is_baseline:
        default = supervised_loss(job.task, plugins=job.recipe.plugins, **facts)
        objective, weights = baseline_objective(objective, weights, default=default)
    elif has_distillation_loss and stage is not job.plan.teacher_training:
        # The distiller binds self teachers to the student, and records their layers as well.
        for name, node in job.plan.self_teachers.items():
            loss_teachers[name], feature_layers[name] = node.build(**facts), layers.get(name, {})
    task: Task = job.task
    if isinstance(network, PeerStudents):
        task, weights = MutualTask(task, len(network.names)), scale_weights_for_peers(weights, len(network.names))
    weighting = None if stage.loss_weighting is None or is_baseline else stage.loss_weighting.build()
    with warnings.catch_warnings():
        # temperature_warnings() gives them once, and not for every stage and dry run.
        warnings.filterwarnings("ignore", message="the temperature of", category=UserWarning)
        return Distiller(
            network, loss_teachers, objective=objective, weights=weights,
            feature_layers={name: paths for name, paths in feature_layers.items() if paths}, task=task,
            gather_distributed=[name for name in objective if name in gather_losses], loss_weighting=weighting,
            ensemble=job.plan.ensemble.build(seed=job.recipe.seed) if len(teachers) > 1 else "mean_logits",
        )  # fmt: skip


def supervised_loss(task: Task, *, plugins: Sequence[str] = (), **facts: Any) -> Loss:
    """The loss on the target that trains baselines of ``task``: its ``supervised_loss``, else a cross-entropy.

    >>> from limbeck.tasks import Classification
    >>> supervised_loss(Classification(classes=3))
    CrossEntropyLoss(label_smoothing=0.0)
    """
    name = getattr(task, "supervised_loss", "CrossEntropyLoss")
    # The package of a task that is imported already may define its loss as well.
    trusted = [*plugins, type(task).__module__.partition(".")[0]]
    loss: Loss = resolve_node(
        {"use": name}, "loss", plugins=trusted, provided=facts, config_path=f"{type(task).__name__}.supervised_loss"
    ).build(**facts)
    return loss


def baseline_objective(
    objective: Mapping[str, Loss], weights: Mapping[str, float | Schedule], *, default: Loss = CrossEntropyLoss()
) -> tuple[dict[str, Loss], dict[str, float | Schedule]]:
    """The supervised losses of ``objective`` and their weights; ``default`` where there is none.

    >>> from limbeck.losses import KDLoss
    >>> baseline_objective({"target": CrossEntropyLoss(), "kd": KDLoss()}, {"target": 0.1, "kd": 0.9})
    ({'target': CrossEntropyLoss(label_smoothing=0.0)}, {'target': 1.0})
    """
    losses = {name: loss for name, loss in objective.items() if loss_attribute(loss, "supervised")}
    losses = losses or {"target": default}
    return losses, baseline_weights({name: weights.get(name, 1.0) for name in losses})


def baseline_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """``weights`` divided by the first one; all 1 where one is not a number above zero.

    >>> baseline_weights({"target": 0.1, "dice": 0.05})
    {'target': 1.0, 'dice': 0.5}
    """
    values = list(weights.values())
    if not all(isinstance(weight, int | float) and weight > 0 for weight in values):
        return dict.fromkeys(weights, 1.0)
    return {name: weight / values[0] for name, weight in weights.items()}


def make_training_config(stage: ResolvedStage, phase: str) -> TrainingConfig:
    """The training settings of a stage; a baseline has unpaired batches and no groups of losses."""
    scheduler, node = stage.scheduler, stage.training
    settings = node.model_dump(exclude={"optimizer", "scheduler", "precision", "strategy", "devices"})
    if phase in BASELINE_PHASES:
        settings["batch_pairing"] = "none"
        groups = settings["parameter_groups"]
        settings["parameter_groups"] = [group for group in groups if not group["match"].startswith("losses.")]
    return TrainingConfig(
        optimizer=stage.optimizer.build,
        scheduler=None if scheduler is None else lambda optimizer, steps: scheduler.build(optimizer, steps=steps),
        scheduler_interval="step" if node.scheduler is None else node.scheduler.interval,
        **settings,
    )


def training_steps(job: Job) -> dict[str, int]:
    """The number of steps of each training of a run by its title in progress bars, in order."""
    teaching, fractions = job.plan.teacher_training, {
        name: config.train_fraction or 1.0 for name, config in job.recipe.teachers.items() if config.weights is None
    }  # fmt: skip
    steps = {} if teaching is None else {name: round(f * job.num_steps(teaching)) for name, f in fractions.items()}
    for phase in (*job.recipe.assistants, *job.baseline_phases, Role.DISTILLED.value):
        for stage, num_steps in zip(job.plan.stages, job.stage_steps(), strict=True):
            title = training_title(phase, stage.stage.name, has_more_stages=len(job.plan.stages) > 1)
            steps[title] = num_steps
    return steps


def check_world_size(recipe: Recipe, world_size: int) -> None:
    """Refuse a number of processes that the recipe is not for, and a strategy that needs several."""
    for path, stage in recipe.all_stages():
        training = recipe.stage_training(stage, config_path=path)
        if training.devices not in (None, world_size):
            raise LimbeckError(
                f"{path}: training.devices is {training.devices}, and the number of processes is {world_size}: start "
                f"it with torchrun --nproc-per-node {training.devices} -m limbeck distill …, or change devices"
            )
        if training.strategy != "auto" and world_size == 1:
            raise LimbeckError(
                f"{path}: training.strategy {training.strategy} spreads a training over processes, and there is one: "
                "start it with torchrun --nproc-per-node N -m limbeck distill …, or set it to auto"
            )
