"""Every stage of a recipe run for one step on two samples, so that what fails does so before training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.core.progress import Progress
from limbeck.core.protocols import Task
from limbeck.core.roles import Role
from limbeck.data import iterate_batches
from limbeck.data.module import LabelSubset
from limbeck.distiller import Distiller, LossOutput, classifier_source, deployment_model
from limbeck.recipe import ResolvedStage
from limbeck.recipe.resolved_node import ResolvedNode
from limbeck.teachers import ExternalTeacher
from limbeck.training import TrainingConfig, freeze_modules
from limbeck.training.convert_precision import require_precision
from limbeck.training.optimizers import make_optimizer, make_scheduler
from limbeck.utils.all_gather import single_process
from limbeck.utils.eval_mode import eval_mode
from limbeck.utils.parametrizations import copy_module
from limbeck.workflows._job.stages import check_world_size, make_distiller, make_training_config
from limbeck.workflows._job.teachers import make_dry_run_teacher
from limbeck.workflows._job.training_hooks import make_callbacks
from limbeck.workflows._job.validate_task import check_data, require_finite_losses, validate_task

if TYPE_CHECKING:
    from limbeck.workflows._job.job import Job

__all__ = ["rehearse"]

_NETWORK_ADVICE = "check its channels, input size and classes"


def rehearse(job: Job) -> None:
    """Run every stage of ``job`` for one step on two samples, with new networks.

    Raises:
        LimbeckError: the first failure (a layer that does not exist, inputs that a network does not take, an optimizer
            or a scheduler that cannot train), with the dotted path of its setting.
    """
    check_world_size(job.recipe, job.processes.world_size)
    make_callbacks(job.plan, [])  # an error of a constructor
    student = job.build_student()
    check_data(job.task, student, job.data)
    samples = job.data.validation.subset(torch.arange(min(2, len(job.data.validation))))
    _check_network(job, job.task, student, "student", next(iterate_batches(samples, job.data.normalization)))
    validate_task(job.task, student, job.data, job.recipe)
    teachers = {name: job.build_teacher(name) for name in job.recipe.teachers}
    # First, since a stage freezes its teachers.
    if job.plan.teacher_training is not None:
        for name, network in teachers.items():
            if not isinstance(network, ExternalTeacher):
                _rehearse_stage(job, job.plan.teacher_training, network, {}, name)
    networks = teachers | {name: job.build_network(name) for name in job.recipe.assistants}
    for student_name, teacher_names in job.recipe.training_order():
        student = networks[student_name] if student_name in networks else job.build_student()
        student_teachers = {name: networks[name] for name in teacher_names}
        student = job.with_peers(student, student_name)
        for stage in job.plan.stages:
            _rehearse_stage(job, stage, student, student_teachers, student_name)
    if Role.NO_ASSISTANTS in job.recipe.baselines:
        for stage in job.plan.stages:
            _rehearse_stage(job, stage, job.build_student(), teachers, Role.NO_ASSISTANTS)


def _rehearse_stage(
    job: Job, stage: ResolvedStage, network: nn.Module, teachers: Mapping[str, nn.Module], phase: str
) -> None:
    training = make_training_config(stage, phase)
    distiller = make_distiller(job, network, teachers, stage, phase=phase, make_teacher=make_dry_run_teacher)
    check_data(distiller.task, network, job.data)
    distiller.progress = Progress(step=0, steps=1, total_steps=1)
    batch = _make_batch(job, stage, training)
    _check_forward(job, distiller, batch, phase)
    with freeze_modules(network, stage.stage.freeze), single_process():
        distiller.prepare(batch)
        # In train mode, as in training: some networks return losses in it, and a task may change batches. On a
        # copy, since weights and BatchNorm statistics change.
        unchanged = (distiller.task, *distiller.teachers.values())
        output = _rehearse_step(job, copy_module(distiller, keep=unchanged).train(), batch, stage, training)
        deployment_model(distiller)
        optimizer = make_optimizer(distiller, training)
    if distiller.teachers:
        require_finite_losses(output, stage.stage.name, job.recipe)
    if phase in job.recipe.assistants and (simkd_names := classifier_source(distiller)):
        raise LimbeckError(
            f"stages: {simkd_names[0]} (SimKD) ends a student in its teacher's classifier, and an assistant must "
            "be a network of its own: remove assistants, or SimKD"
        )
    require_precision(stage.training.precision, distiller, training, optimizer, has_cache=job.recipe.cache is not None)


def _make_batch(job: Job, stage: ResolvedStage, training: TrainingConfig) -> Any:
    # Losses on the target must meet the logits of minus infinity of a truncated cache.
    needs_labels = job.recipe.cache is not None and job.recipe.cache.tail == "renormalized"
    subset: LabelSubset = "labeled" if needs_labels and job.data.num_labeled else "all"
    stream = job.batches(stage, subset)
    # The same sample twice is a pair of one class.
    indices = torch.arange(2) % (1 if training.batch_pairing == "same_class" else len(stream.split))
    return stream.load(indices, torch.zeros_like(indices))


def _check_forward(job: Job, distiller: Distiller, batch: Any, phase: str) -> None:
    """Let the student and each teacher compute their outputs; a failure names the network."""
    _check_network(job, distiller.task, distiller.student, phase, batch)
    for name, teacher in distiller.teachers.items():
        path, node = _network_node(job, name)
        with torch.no_grad(), _named_failure(path, node, _NETWORK_ADVICE):
            teacher.predict(batch, distiller.task)


def _check_network(job: Job, task: Task, network: nn.Module, name: str, batch: Any) -> None:
    path, node = _network_node(job, name)
    with eval_mode(network), torch.no_grad(), _named_failure(path, node, _NETWORK_ADVICE):
        task.outputs(network, batch)


def _rehearse_step(
    job: Job, distiller: Distiller, batch: Any, stage: ResolvedStage, training: TrainingConfig
) -> Mapping[str, Tensor]:
    """One step of ``distiller``, which is changed; returns the value of each loss."""
    paths = (f"stages.{index}" for index, other in enumerate(job.plan.stages) if other is stage)
    config_path = next(paths, "teacher_training")
    optimizer = make_optimizer(distiller, training)
    num_steps = job.num_steps(stage)
    if training.scheduler_interval == "epoch":
        num_steps = -(-num_steps // job.steps_per_epoch(stage, "all"))
    scheduler = make_scheduler(optimizer, num_steps, training)
    with _named_failure(config_path, None, "check its losses, and the student in train mode"):
        output: LossOutput = distiller(batch)
        if output.total.requires_grad:
            torch.autograd.backward(output.total)
    with _named_failure(
        stage.optimizer.config_path, stage.optimizer, "choose another optimizer or settings, such as AdamW or SGD"
    ):
        is_finite = bool(output.total.isfinite()) and all(
            bool(parameter.grad.isfinite().all()) for parameter in distiller.parameters() if parameter.grad is not None
        )
        optimizer.step()
    for name, parameter in distiller.named_parameters() if is_finite else ():
        if not bool(parameter.isfinite().all()):
            raise LimbeckError(
                f"{stage.optimizer.config_path}: the weights {name!r} are not finite after one step of "
                f"{stage.optimizer.use}: lower lr"
            )
    if scheduler is not None and stage.scheduler is not None:
        _check_scheduler(scheduler, stage.scheduler, num_steps)
    return output.by_loss


def _check_scheduler(scheduler: Any, node: ResolvedNode, num_steps: int) -> None:
    """Step ``scheduler`` a few times, and refuse one that ends before the stage."""
    length = getattr(scheduler, "total_steps", None)
    if isinstance(length, int) and length < num_steps:
        names = [name for name in ("total_steps", "epochs", "steps_per_epoch") if node.settings.get(name) is not None]
        raise LimbeckError(
            f"{node.config_path}: {node.use} ends after {length} steps, and the stage steps it {num_steps} times: "
            f"remove {' and '.join(names) or 'its length'}, so that it has the length of the stage"
        )
    with _named_failure(node.config_path, node, "change its settings"):
        for _ in range(min(num_steps, 3)):
            scheduler.step(0.0) if isinstance(scheduler, ReduceLROnPlateau) else scheduler.step()


def _network_node(job: Job, name: str) -> tuple[str, ResolvedNode | None]:
    """The dotted path and the node of the network ``name``."""
    for key in ("teachers", "assistants", "self_teachers"):
        if name in (nodes := getattr(job.plan, key)):
            return f"{key}.{name}", nodes[name]
    return "student", job.plan.student


@contextmanager
def _named_failure(config_path: str, node: ResolvedNode | None, advice: str) -> Iterator[None]:
    """Raise any failure as a ``LimbeckError`` with the path of its setting and what to do."""
    try:
        yield
    except MemoryError:
        raise
    except LimbeckError as error:
        if str(error).startswith(config_path):
            raise
        raise LimbeckError(f"{config_path}: {'; '.join([str(error), *_notes(error)])}") from error
    except Exception as error:  # networks, losses and optimizers may raise anything
        subject = "" if node is None else f"{node.use} "
        cause = "; ".join([format_root_cause(error), *_notes(error)])
        raise LimbeckError(f"{config_path}: {subject}fails on two samples of the data ({cause}): {advice}") from error


def _notes(error: BaseException) -> list[str]:
    """The loss that raised ``error``, if one did."""
    return getattr(error, "__notes__", [])
