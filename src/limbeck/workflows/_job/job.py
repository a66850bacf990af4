"""A recipe come alive: its data, networks and trainings, each made by seed."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, final

import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.core.protocols import Task, Teacher, loss_attribute
from limbeck.core.roles import Role
from limbeck.data import DataModule
from limbeck.data.counter_rng import derive_seed
from limbeck.distiller import (
    Distiller,
    MutualTask,
    Objective,
    PeerStudents,
    classifier_source,
    deployment_model,
    early_exits,
    loss_per_teacher,
    scale_weights_for_peers,
    temperature_warnings,
)
from limbeck.models import load_weights
from limbeck.recipe import Recipe, ResolvedRecipe, ResolvedStage, resolve_recipe
from limbeck.recipe.resolved_node import ResolvedNode
from limbeck.teachers import CacheConfig, CachedTeacher, ExternalTeacher, FrozenTeacher, InferenceBackend, from_callable
from limbeck.training import FitResult, Processes, TrainingConfig, fit, freeze_modules, make_fabric
from limbeck.training.callbacks import Callback, make_logger
from limbeck.utils.all_gather import single_process
from limbeck.workflows._job.data_cache import DataCache
from limbeck.workflows._job.distillers import (
    BASELINE_PHASES,
    baseline_objective,
    check_world_size,
    config_for_phase,
    make_training_config,
)
from limbeck.workflows._job.teachers import adapt_teacher_network, mask_teacher

__all__ = ["Job"]

_TeacherFactory = Callable[[str, nn.Module, Mapping[str, str] | None], Teacher]
_STUDENT_SEED = zlib.crc32(b"student")
_BASELINE_PHASE_NAMES = {"student_only": Role.BASELINE.value}


@final
@dataclass(frozen=True, slots=True)
class Job:
    """What a recipe asks for, with its data loaded.

    Attributes:
        plan: the checked recipe.
        data: split by the recipe's seed, its held-out test set bound to the run folder.
        task: what a batch means.
        run_dir: the run folder.
        backends: what the teachers' outputs are computed by, once they were needed.
        caches: where their answers are kept, if they are, as they were opened: for each stage anew.
        processes: those that work on it, of which this is one.
        peers: the students that learned together with the distilled one, once it is trained.
        early_exits: its early exits, once it is trained.
    """

    plan: ResolvedRecipe
    data: DataModule
    task: Task
    run_dir: Path
    backends: dict[str, InferenceBackend] = field(default_factory=dict)
    caches: list[tuple[str, CachedTeacher]] = field(default_factory=list)
    processes: Processes = field(default_factory=Processes)
    peers: dict[str, nn.Module] = field(default_factory=dict)
    early_exits: dict[str, nn.Module] = field(default_factory=dict)

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, run_dir: Path, processes: Processes = Processes(), data_cache: DataCache | None = None
    ) -> Self:  # fmt: skip
        """Check the whole recipe, then load its data, or take it from ``data_cache`` where another job has loaded
        it.
        """
        plan = resolve_recipe(recipe)
        if recipe.num_threads is not None:
            torch.set_num_threads(recipe.num_threads)
        data = (data_cache or DataCache()).load(plan)
        if not isinstance(data, DataModule):
            raise LimbeckError(
                f"data: {plan.data.use}.load gave a {type(data).__name__}, not a limbeck.data.DataModule"
            )
        task = plan.task.build(classes=len(data.class_names))
        if (task_classes := getattr(task, "classes", len(data.class_names))) != len(data.class_names):
            raise LimbeckError(
                f"task.classes is {task_classes}, and the data has {len(data.class_names)} classes "
                f"({', '.join(data.class_names[:5])}"
                f"{' …' if len(data.class_names) > 5 else ''}): leave task.classes away, or give other data"
            )
        held_out_test = data.test.with_log(run_dir / "checkpoint" / "test_access.json")
        return cls(plan, replace(data, test=held_out_test, order_seed=recipe.seed), task, run_dir, processes=processes)

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was given."""
        return self.plan.recipe

    @property
    def baseline_phases(self) -> tuple[str, ...]:
        """The phases of the recipe's baselines, which are also the names of these models in the record."""
        return tuple(_BASELINE_PHASE_NAMES.get(name, name) for name in self.recipe.baselines)

    def build_teacher(self, name: str) -> nn.Module:
        """The teacher ``name``, with its weights where the recipe has some, and by seed where not.

        An ``ExternalTeacher`` has none: an ONNX file, an inference server, or the callable that a user's own function
            gave.
        """
        config, node = self.recipe.teachers[name], self.plan.teachers[name]
        module = self._build_node(node, zlib.crc32(name.encode()))
        network = module if isinstance(module, nn.Module) or not callable(module) else from_callable(module)
        if isinstance(network, ExternalTeacher):
            if config.weights is not None or config.backend != "eager":
                key = "backend" if config.weights is None else "weights"
                raise LimbeckError(f"{node.config_path}.{key}: {node.use} gave no network, so leave {key} away")
            network.normalization = network.normalization or self.data.normalization
        elif config.weights is not None:
            network = load_weights(_require_module(network, node), config.weights)
        elif self.plan.teacher_training is None:
            raise LimbeckError(
                f"{node.config_path}: {node.use} has no weights, and there is no `teacher_training` to train it by"
            )
        return adapt_teacher_network(_require_module(network, node), config, self.data, config_path=node.config_path)

    def teacher_for(self, name: str, network: nn.Module, feature_layers: Mapping[str, str] | None = None) -> Teacher:
        """What answers for the teacher ``name`` while a student learns.

        It is ``network``, by the recipe's backend, and read from a cache where the recipe keeps its outputs in one.
        """
        if name not in self.backends:
            print_backend = _print_backend if self.processes.rank == 0 else _ignore_backend
            self.backends[name] = InferenceBackend(self._backend_name(name), log=partial(print_backend, name))
        teacher: Teacher = FrozenTeacher(network, feature_layers, backend=self.backends[name])
        if self.recipe.cache is not None:
            self.caches.append((name, self._open_cache(name, teacher)))
            teacher = self.caches[-1][1]
        return self._mask_teacher(name, teacher)

    def open_caches(self, network: nn.Module, teachers: Mapping[str, nn.Module]) -> list[tuple[str, CachedTeacher]]:
        """The caches that the stages of the recipe read, each once: by teacher, and by the layers that are recorded
        in it.
        """
        for stage in self.plan.stages:
            self._make_distiller(network, teachers, stage, phase=Role.DISTILLED, make_teacher=self.teacher_for)
        return list({(name, cached.entry_fingerprint): (name, cached) for name, cached in self.caches}.values())

    def build_assistant(self, name: str) -> nn.Module:
        """The assistant ``name`` at its start, by seed."""
        node = self.plan.assistants[name]
        return _require_module(self._build_node(node, zlib.crc32(name.encode())), node)

    def build_student(self) -> nn.Module:
        """The student at its start: the same weights each time."""
        return _require_module(self._build_node(self.plan.student, _STUDENT_SEED), self.plan.student)

    def build_deployed(self) -> nn.Module:
        """The distilled student in the shape in which a finished run keeps it, with weights that mean nothing yet.

        It is the student's own shape, unless the last stage deploys more (:func:`limbeck.distiller.deployment_model`).
        """
        student, stage = self.build_student(), self.plan.stages[-1]
        objective, _ = stage.build_objective(classes=len(self.data.class_names), seed=self.recipe.seed)
        if not any(loss_attribute(loss, "replaces_classifier") for loss in objective.values()):
            return student
        teachers = {}
        for name in self.recipe.training_order()[-1].teachers:
            node, config = self.plan.teachers[name], self.recipe.teachers[name]
            teachers[name] = adapt_teacher_network(
                _require_module(self._build_node(node, 0), node), config, self.data, config_path=node.config_path
            )
        distiller = self._make_distiller(
            student, teachers, stage, phase=Role.DISTILLED, make_teacher=self._uncached_teacher
        )
        batch = self.data.batches(batch_size=2).batch(0)
        with torch.no_grad():
            distiller.prepare(batch)
        return deployment_model(distiller)

    def validate(self) -> None:
        """Every stage once on two samples, with networks of its own that are thrown away.

        A layer that does not exist, weights that do not fit, a head of other classes, a setting that a constructor
        refuses: each is an error now, and not after the teachers were trained.
        """
        check_world_size(self.recipe, self.processes.world_size)
        teachers = {name: self.build_teacher(name) for name in self.recipe.teachers}
        all_networks = teachers | {name: self.build_assistant(name) for name in self.recipe.assistants}
        stage_runs: list[tuple[ResolvedStage, nn.Module, Mapping[str, nn.Module], str]] = []
        for student_name, teacher_names in self.recipe.training_order():
            network = all_networks[student_name] if student_name in all_networks else self.build_student()
            pair_teachers = {name: all_networks[name] for name in teacher_names}
            network = self._with_peers(network, student_name)
            stage_runs += [(stage, network, pair_teachers, student_name) for stage in self.plan.stages]
        if Role.NO_ASSISTANTS in self.recipe.baselines:
            stage_runs += [(stage, self.build_student(), teachers, Role.NO_ASSISTANTS) for stage in self.plan.stages]
        if self.plan.teacher_training is not None:
            trainable = {
                name: network for name, network in teachers.items() if not isinstance(network, ExternalTeacher)
            }
            stage_runs += [(self.plan.teacher_training, network, {}, name) for name, network in trainable.items()]
        for stage, network, stage_teachers, phase in stage_runs:
            training = make_training_config(stage)
            distiller = self._make_distiller(
                network, stage_teachers, stage, phase=phase, make_teacher=self._dry_run_teacher
            )
            distiller.progress = Progress(step=0, steps=1, total_steps=1)
            stream = self.data.batches(batch_size=training.batch_size)
            # Of one sample twice it is certain that both are of one class.
            indices = torch.arange(2) % (1 if training.batch_pairing == "same_class" else len(stream.split))
            batch = stream.load(indices, torch.zeros_like(indices))
            with torch.no_grad(), single_process():
                distiller.prepare(batch).eval()(batch)
                deployment_model(distiller)
            if phase in self.recipe.assistants and (simkd_names := classifier_source(distiller)):
                raise LimbeckError(
                    f"stages: {simkd_names[0]} (SimKD) ends a student in its teacher's classifier, and an assistant "
                    "teaches "
                    "on as a network of its own: leave assistants away, or SimKD"
                )
            optimizer = training.optimizer(distiller.parameters())
            if training.scheduler is not None:
                training.scheduler(optimizer, 2)
            with freeze_modules(network, stage.stage.freeze):
                pass

    def temperature_warnings(self) -> list[str]:
        """What is to be said of the temperatures of the stages, each once."""
        settings = {"classes": len(self.data.class_names), "seed": self.recipe.seed}
        messages = [
            text
            for stage in self.plan.stages
            for text in temperature_warnings(stage.build_objective(**settings)[0], self.task)
        ]
        return list(dict.fromkeys(messages))

    def stage_steps(self) -> list[int]:
        """The optimizer steps of each stage."""
        return [self._num_steps(stage, make_training_config(stage)) for stage in self.plan.stages]

    def dry_run_stage(
        self, stage_index: int, teachers: Mapping[str, nn.Module] | None
    ) -> tuple[Distiller, TrainingConfig]:
        """A fresh student in a stage, distilled from ``teachers`` or (``None``) without one, to be looked at and
        thrown away.
        """
        stage = self.plan.stages[stage_index]
        phase = Role.BASELINE if teachers is None else Role.DISTILLED
        network = self._with_peers(self.build_student(), phase)
        distiller = self._make_distiller(
            network, teachers or {}, stage, phase=phase, make_teacher=self._uncached_teacher
        )
        return distiller, config_for_phase(make_training_config(stage), phase)

    def train_teacher(
        self, name: str, network: nn.Module, *, resume: bool, callbacks: Sequence[Callback] | None
    ) -> FitResult:
        """Train a teacher by the recipe's ``teacher_training``, on the labeled images."""
        assert self.plan.teacher_training is not None
        steps, fraction = (
            self._num_steps(self.plan.teacher_training, make_training_config(self.plan.teacher_training)),
            self.recipe.teachers[name].train_fraction,
        )
        stop_after_steps = None if fraction is None else max(1, round(fraction * steps))
        distiller = self._make_distiller(
            network, {}, self.plan.teacher_training, phase=name, make_teacher=self.teacher_for
        )
        return self._fit(
            distiller,
            self.plan.teacher_training,
            phase=name,
            stop_after_steps=stop_after_steps,
            total_steps=steps,
            resume=resume,
            callbacks=callbacks,
        )

    def train_stages(
        self, phase: str, network: nn.Module, teachers: Mapping[str, nn.Module], *, resume: bool,
        callbacks: Sequence[Callback] | None,
    ) -> FitResult:  # fmt: skip
        """Take a network through every stage, as the recipe says; a baseline towards the labels only.

        The baseline is the fair comparison: the same start, stages, number of steps, batch, optimizer, schedule and
            views; only
        what teachers say is missing, and the pictures without a label, about which nobody tells it anything.
        """
        seconds, steps, history = 0.0, 0, list[dict[str, Any]]()
        stage_steps, trained_module = self.stage_steps(), self._with_peers(network, phase)
        previous_objectives: list[Objective] = []
        for stage_index, stage in enumerate(self.plan.stages):
            distiller = self._make_distiller(
                trained_module, teachers, stage, phase=phase, make_teacher=self.teacher_for
            )
            for objective in previous_objectives:
                distiller.objective.load_previous(objective)
            run = self._fit(
                distiller, stage, phase=phase, steps_before=sum(stage_steps[:stage_index]),
                total_steps=sum(stage_steps), resume=resume,
                callbacks=callbacks,
            )  # fmt: skip
            previous_objectives.append(distiller.objective)
            seconds, steps, history = seconds + run.seconds, steps + run.steps, history + run.history
        if isinstance(trained_module, PeerStudents):
            self.peers.update({name: peer for name, peer in trained_module.students().items() if peer is not network})
        if phase not in self.recipe.assistants:
            self.early_exits.update(early_exits(distiller))
        trained_student = network.eval() if isinstance(trained_module, PeerStudents) else run.student
        return FitResult(trained_student, history, steps, seconds, self.run_dir)

    def _fit(
        self, distiller: Distiller, stage: ResolvedStage, *, phase: str, stop_after_steps: int | None = None,
        steps_before: int = 0,
        total_steps: int, resume: bool, callbacks: Sequence[Callback] | None,
    ) -> FitResult:  # fmt: skip
        training = config_for_phase(make_training_config(stage), phase)
        with freeze_modules(distiller.student, stage.stage.freeze):
            return fit(
                distiller, self.data, steps=self._num_steps(stage, training), stop_after_steps=stop_after_steps,
                steps_before=steps_before, total_steps=total_steps,
                steps_per_epoch=self._steps_per_epoch(training, "all"), training=training, run_dir=self.run_dir,
                phase=phase, stage=stage.stage.name, subset="all" if distiller.teachers else "labeled",
                seed=self.recipe.seed, resume=resume, callbacks=callbacks,
                fabric=make_fabric(
                    strategy=stage.training.strategy, precision=stage.training.precision, loggers=self._make_loggers()
                ),
            )  # fmt: skip

    def _make_distiller(
        self,
        network: nn.Module,
        teachers: Mapping[str, nn.Module],
        stage: ResolvedStage,
        *,
        phase: str,
        make_teacher: _TeacherFactory,
    ) -> Distiller:
        """Learner, teachers and objective of one stage; of a baseline, the labels are all that is left of it."""
        objective, weights = stage.build_objective(classes=len(self.data.class_names), seed=self.recipe.seed)
        gather_losses = stage.gathered_losses
        if self.recipe.assistant_mode == "dense" and phase not in BASELINE_PHASES:
            objective, weights = loss_per_teacher(objective, weights, list(teachers))
            gather_losses += tuple(f"{name}-{teacher}" for name in gather_losses for teacher in teachers)
        has_distillation_loss = any(not loss_attribute(loss, "supervised") for loss in objective.values())
        uses_teachers = bool(teachers) and has_distillation_loss
        self_teachers = (
            self.plan.self_teachers if has_distillation_loss and stage is not self.plan.teacher_training else {}
        )
        if phase in BASELINE_PHASES:
            objective, weights = baseline_objective(objective, weights)
            has_distillation_loss, self_teachers = False, {}
        layers_by_network = stage.stage.feature_layers if has_distillation_loss else {}
        loss_teachers = {
            name: make_teacher(name, teacher, layers_by_network.get(name))
            for name, teacher in teachers.items()
            if uses_teachers
        }
        # An assistant that learns is the student of its own training, and its layers go by its own name.
        student_layers = layers_by_network.get(phase if phase in self.plan.assistants else "student", {})
        # Those that are made of the student are bound to it by the distiller, which records their layers as well.
        loss_teachers |= {name: node.build(classes=len(self.data.class_names)) for name, node in self_teachers.items()}
        feature_layers = {
            "student": student_layers,
            **{name: layers_by_network[name] for name in self_teachers if name in layers_by_network},
        }
        task = self.task
        if isinstance(network, PeerStudents):
            task, weights = MutualTask(task, len(network.names)), scale_weights_for_peers(weights, len(network.names))
        loss_weighting = (
            None if stage.loss_weighting is None or phase in BASELINE_PHASES else stage.loss_weighting.build()
        )
        with warnings.catch_warnings():
            # The run gives its warnings once, together, and not for each stage and dry run.
            warnings.filterwarnings("ignore", message="the temperature of", category=UserWarning)
            return Distiller(
                network, loss_teachers, objective=objective, weights=weights,
                feature_layers={name: layers for name, layers in feature_layers.items() if layers}, task=task,
                gather_distributed=[name for name in objective if name in gather_losses], loss_weighting=loss_weighting,
                ensemble=self.plan.ensemble.build(seed=self.recipe.seed) if len(teachers) > 1 else "mean_logits",
            )  # fmt: skip

    def _uncached_teacher(
        self, name: str, network: nn.Module, feature_layers: Mapping[str, str] | None = None
    ) -> Teacher:
        """Like :meth:`teacher_for`, and never from a cache."""
        return FrozenTeacher(
            network,
            feature_layers,
            backend=InferenceBackend(self._backend_name(name), log=partial(_ignore_backend, name)),
        )

    def _with_peers(self, network: nn.Module, phase: str) -> nn.Module:
        """``network``, or together with its peers where it has some: those of the distilled student, at their start."""
        if not self.recipe.peers or phase in BASELINE_PHASES:
            return network
        peers = {
            name: _require_module(self._build_node(node, zlib.crc32(name.encode())), node)
            for name, node in self.plan.peers.items()
        }
        return PeerStudents({"student": network, **peers})

    def _dry_run_teacher(
        self, name: str, network: nn.Module, feature_layers: Mapping[str, str] | None = None
    ) -> Teacher:
        """Like :meth:`teacher_for`, with a backend that is thrown away; two samples are no batch to choose one on."""
        if self.recipe.cache is not None:
            self._open_cache(name, FrozenTeacher(network))  # which looks at the views
        backend = InferenceBackend(self._backend_name(name))
        backend.require_feature_support(feature_layers or {})
        # To compile takes a minute, and what auto cannot use it leaves out.
        teacher = FrozenTeacher(
            network, feature_layers, backend="eager" if backend.name in ("auto", "compile") else backend
        )
        return self._mask_teacher(name, teacher)

    def _mask_teacher(self, name: str, teacher: Teacher) -> Teacher:
        return mask_teacher(teacher, self.recipe.teachers.get(name), self.data, config_path=f"teachers.{name}")

    def _open_cache(self, name: str, teacher: Teacher) -> CachedTeacher:
        config = self.recipe.cache
        assert config is not None
        cache_config = CacheConfig(**config.model_dump(exclude={"root"}))
        return CachedTeacher(teacher, self.data, root=config.root, config=cache_config, name=name)

    def _make_loggers(self) -> list[Any]:
        if self.processes.rank:
            return []
        return [make_logger(name, self.run_dir, run=self.recipe.name) for name in self.recipe.loggers]

    def _backend_name(self, name: str) -> str:
        """By what ``name`` answers; an assistant as it is."""
        return self.recipe.teachers[name].backend if name in self.recipe.teachers else "eager"

    def _num_steps(self, stage: ResolvedStage, training: TrainingConfig) -> int:
        """The optimizer steps of a stage; epochs count the pictures that the distilled student sees, for all alike."""
        if stage.stage.steps is not None:
            return stage.stage.steps
        return self._steps_per_epoch(training, "labeled" if stage is self.plan.teacher_training else "all") * (
            stage.stage.epochs or 1
        )

    def _steps_per_epoch(self, training: TrainingConfig, subset: Literal["all", "labeled"]) -> int:
        """The optimizer steps that show all those pictures once."""
        stream = self.data.batches(batch_size=training.batch_size, subset=subset, world_size=self.processes.world_size)
        return max(1, stream.steps_per_epoch // training.grad_accum_steps)

    def _build_node(self, node: ResolvedNode, seed_offset: int) -> Any:
        torch.manual_seed(derive_seed(self.recipe.seed, seed_offset))
        return node.build(classes=len(self.data.class_names), channels=self.data.input_shape[0])


def _require_module(module: Any, node: ResolvedNode) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise LimbeckError(f"{node.config_path}: {node.use} gave a {type(module).__name__}, not a torch.nn.Module")
    return module


def _print_backend(name: str, backend: str) -> None:
    print(f"{name}: outputs computed by {backend}", flush=True)  # noqa: T201


def _ignore_backend(name: str, backend: str) -> None:
    """The first process has told it."""
