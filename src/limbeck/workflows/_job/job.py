"""A recipe with its data: builds its networks and distillers by seed, and trains them."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self, TypedDict, Unpack, final

import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import loss_attribute
from limbeck.core.roles import Role
from limbeck.core.task import EvaluableTask, require_evaluable
from limbeck.data import DataModule
from limbeck.data.batch_sampler import BatchSampler
from limbeck.data.counter_rng import derive_seed
from limbeck.data.held_out import close_access_log
from limbeck.data.module import LabelSubset
from limbeck.distiller import (
    Distiller,
    Objective,
    PeerStudents,
    deployment_model,
    early_exits,
    temperature_warnings,
)
from limbeck.models import load_weights
from limbeck.recipe import Recipe, ResolvedRecipe, ResolvedStage, load_recipe, resolve_recipe
from limbeck.recipe.resolved_node import ResolvedNode
from limbeck.teachers import CachedTeacher, ExternalTeacher, InferenceBackend, from_callable
from limbeck.teachers.identity import fingerprint_network, network_signature
from limbeck.training import FitResult, Processes, TrainingConfig, fit, freeze_modules, make_fabric
from limbeck.training.callbacks import Callback
from limbeck.workflows._job.data_cache import DataCache
from limbeck.workflows._job.facts import data_facts
from limbeck.workflows._job.rehearsal import rehearse
from limbeck.workflows._job.stages import BASELINE_PHASES, make_distiller, make_training_config
from limbeck.workflows._job.teachers import adapt_teacher_network, make_uncached_teacher
from limbeck.workflows._job.training_hooks import finalize_loggers, make_callbacks, make_loggers

_BASELINE_PHASE_NAMES = {"student_only": Role.BASELINE.value}
_MAX_THREADS_PER_CORE: Final = 16
"""With more, a step of a small network takes seconds."""


class TrainOptions(TypedDict):
    """Options of :func:`limbeck.fit` for every training of a run."""

    resume: bool
    callbacks: Sequence[Callback] | None


@final
@dataclass(frozen=True, slots=True)
class Job:
    """A recipe with its data.

    Attributes:
        plan: the checked recipe.
        data: split by the recipe's seed, its held-out test set bound to the run folder.
        task: what a batch means.
        run_dir: the run folder.
        backends: by teacher, what computes its outputs; added at the first use.
        caches: teachers with their caches, added for every stage.
        processes: the processes of the run.
        peers: the students that were trained together with the distilled one.
        early_exits: of the distilled student, after training.
        latencies: by architecture, each measured once.
        data_warnings: warnings of loading the data.
    """

    plan: ResolvedRecipe
    data: DataModule
    task: EvaluableTask
    run_dir: Path
    backends: dict[str, InferenceBackend] = field(default_factory=dict)
    caches: list[tuple[str, CachedTeacher]] = field(default_factory=list)
    processes: Processes = field(default_factory=Processes)
    peers: dict[str, nn.Module] = field(default_factory=dict)
    early_exits: dict[str, nn.Module] = field(default_factory=dict)
    latencies: dict[str, Any] = field(default_factory=dict)
    data_warnings: tuple[str, ...] = ()

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, run_dir: Path, processes: Processes = Processes(), data_cache: DataCache | None = None
    ) -> Self:
        """Check the recipe, then load its data, or take it from ``data_cache``."""
        plan = resolve_recipe(recipe)
        _set_num_threads(recipe.num_threads)
        data, data_warnings = (data_cache or DataCache()).load(plan)
        if not isinstance(data, DataModule):
            raise LimbeckError(
                f"data: {plan.data.use}.load must return a limbeck.data.DataModule, got a {type(data).__name__}"
            )
        names = data.class_names
        task = require_evaluable(plan.task.build(**data_facts(data)), "limbeck")
        if names and (task_classes := getattr(task, "classes", len(names))) != len(names):
            raise LimbeckError(
                f"task.classes is {task_classes}, and the data has {len(names)} classes ({', '.join(names[:5])}"
                f"{' …' if len(names) > 5 else ''}): remove task.classes, or give other data"
            )
        held_out_test = data.test.with_log(run_dir / "checkpoint" / "test_access.json")
        data = replace(data, test=held_out_test, order_seed=recipe.seed)
        return cls(plan, data, task, run_dir, processes=processes, data_warnings=data_warnings)

    @classmethod
    def from_run(cls, folder: Path, data_root: str | None = None) -> Self:
        """The finished run in ``folder``, with its data loaded from ``data_root`` where the data has moved."""
        path = folder / "recipe.yaml"
        if not path.exists():
            reason = "was trained in Python" if (folder / "record.json").exists() else "is no run folder"
            raise LimbeckError(f"{folder} {reason}: it has no recipe.yaml")
        if not (folder / "record.json").exists():
            raise LimbeckError(f"{folder} is not finished: go on with limbeck distill --resume --out {folder}")
        close_access_log(folder / "checkpoint" / "test_access.json")
        overrides = [] if data_root is None else [f"data.root={json.dumps(data_root, ensure_ascii=False)}"]
        return cls.from_recipe(load_recipe(path, overrides), folder)

    @property
    def recipe(self) -> Recipe:
        """The recipe without defaults filled in."""
        return self.plan.recipe

    @property
    def baseline_phases(self) -> tuple[str, ...]:
        """The phases of the recipe's baselines, which are also the names of these models in the record."""
        return tuple(_BASELINE_PHASE_NAMES.get(name, name) for name in self.recipe.baselines)

    def build_teacher(self, name: str) -> nn.Module:
        """The teacher ``name``, with its weights where the recipe has some, and by seed where not.

        An ``ExternalTeacher`` has none: an ONNX file, an inference server, or a callable.
        """
        config, node = self.recipe.teachers[name], self.plan.teachers[name]
        module = self._build(node, name)
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

    def build_student(self) -> nn.Module:
        """The student at its start: the same weights each time."""
        return self._build_network(self.plan.student, "student")

    def build_network(self, name: str) -> nn.Module:
        """The network of the model ``name`` of the record, without its trained weights."""
        if name in self.recipe.teachers:
            return self.build_teacher(name)
        if name in self.recipe.assistants:
            return self._build_network(self.plan.assistants[name], name)
        return self.build_student() if name in BASELINE_PHASES else self.build_deployed_student()

    def network_identity(self, name: str) -> dict[str, str]:
        """Identity of a trained model before its training, by which ``select-teachers`` uses its weights again."""
        is_trained_teacher = name in self.recipe.teachers and self.recipe.teachers[name].weights is None
        if not (is_trained_teacher or name == Role.BASELINE):
            return {}
        network = self.build_network(name)
        return {"initial": fingerprint_network(network, {}), "signature": network_signature(network)}

    def build_deployed_student(self) -> nn.Module:
        """The distilled student in the shape that a finished run saves, for weights to be loaded into.

        It is the student's own shape, unless the last stage deploys more (:func:`limbeck.distiller.deployment_model`).
        """
        student, stage = self.build_student(), self.plan.stages[-1]
        objective, _ = stage.build_objective(**data_facts(self.data), seed=self.recipe.seed)
        if not any(loss_attribute(loss, "replaces_classifier") for loss in objective.values()):
            return student
        teachers = {}
        for name in self.recipe.training_order()[-1].teachers:
            node, config = self.plan.teachers[name], self.recipe.teachers[name]
            network = self._build_network(node, name)
            teachers[name] = adapt_teacher_network(network, config, self.data, config_path=node.config_path)
        distiller, _ = self.dry_run_stage(-1, teachers)
        with torch.no_grad():
            distiller.prepare(self.data.batches(batch_size=2).batch(0))
        return deployment_model(distiller)

    def open_caches(self, network: nn.Module, teachers: Mapping[str, nn.Module]) -> list[tuple[str, CachedTeacher]]:
        """The caches that the stages of the recipe read, each once."""
        for stage in self.plan.stages:
            make_distiller(self, network, teachers, stage, phase=Role.DISTILLED)
        return list({(name, cached.entry_fingerprint): (name, cached) for name, cached in self.caches}.values())

    def validate(self) -> None:
        """Run every stage once on two samples, with new networks; a failure is an error before training."""
        rehearse(self)

    def temperature_warnings(self) -> list[str]:
        """Warnings of the temperatures of the stages, each once."""
        settings = {**data_facts(self.data), "seed": self.recipe.seed}
        objectives = [stage.build_objective(**settings)[0] for stage in self.plan.stages]
        return list(dict.fromkeys(text for losses in objectives for text in temperature_warnings(losses, self.task)))

    def stage_steps(self) -> list[int]:
        """The optimizer steps of each stage."""
        return [self.num_steps(stage) for stage in self.plan.stages]

    def dry_run_stage(
        self, stage_index: int, teachers: Mapping[str, nn.Module] | None
    ) -> tuple[Distiller, TrainingConfig]:
        """A new student in a stage, distilled from ``teachers`` or (``None``) without one, for measurements."""
        stage, phase = self.plan.stages[stage_index], Role.BASELINE if teachers is None else Role.DISTILLED
        network = self.with_peers(self.build_student(), phase)
        distiller = make_distiller(
            self, network, teachers or {}, stage, phase=phase, make_teacher=make_uncached_teacher
        )
        return distiller, make_training_config(stage, phase)

    def train_teacher(self, name: str, network: nn.Module, **options: Unpack[TrainOptions]) -> FitResult:
        """Train a teacher by the recipe's ``teacher_training``, on the labeled samples."""
        stage, fraction = self.plan.teacher_training, self.recipe.teachers[name].train_fraction
        assert stage is not None
        steps, distiller = self.num_steps(stage), make_distiller(self, network, {}, stage, phase=name)
        last_step = None if fraction is None else max(1, round(fraction * steps))
        return self._fit(distiller, stage, phase=name, stop_after_steps=last_step, total_steps=steps, **options)

    def train_stages(
        self, phase: str, network: nn.Module, teachers: Mapping[str, nn.Module], **options: Unpack[TrainOptions]
    ) -> FitResult:
        """Train a network through every stage; a baseline by its supervised losses only.

        The baseline has the same start, stages, number of steps, batch size, optimizer, schedule and views; it has no
        teacher, and no samples without a label.
        """
        runs, objectives = list[FitResult](), list[Objective]()
        stage_steps, module = self.stage_steps(), self.with_peers(network, phase)
        for stage_index, stage in enumerate(self.plan.stages):
            distiller = make_distiller(self, module, teachers, stage, phase=phase)
            for objective in objectives:
                distiller.objective.load_previous(objective)
            steps_before, total_steps = sum(stage_steps[:stage_index]), sum(stage_steps)
            run = self._fit(
                distiller, stage, phase=phase, steps_before=steps_before, total_steps=total_steps, **options
            )
            runs.append(run)
            objectives.append(distiller.objective)
        student = run.student
        if isinstance(module, PeerStudents):
            student = network.eval()
            self.peers.update({name: peer for name, peer in module.students().items() if peer is not network})
        if phase not in self.recipe.assistants:
            self.early_exits.update(early_exits(distiller))
        history, steps = [row for run in runs for row in run.history], sum(run.steps for run in runs)
        seconds, texts = sum(run.seconds for run in runs), [text for run in runs for text in run.warnings]
        return FitResult(student, history, steps, seconds, self.run_dir, texts)

    def train_assistants(
        self, teachers: Mapping[str, nn.Module], **options: Unpack[TrainOptions]
    ) -> dict[str, FitResult]:
        """Train the recipe's assistants through its stages, each from its teachers; none where it has none."""
        networks, runs = dict(teachers), dict[str, FitResult]()
        for name, teacher_names in self.recipe.training_order()[:-1]:
            assistant_teachers = {name: networks[name] for name in teacher_names}
            runs[name] = self.train_stages(name, self.build_network(name), assistant_teachers, **options)
            networks[name] = runs[name].student
        return runs

    def _fit(
        self, distiller: Distiller, stage: ResolvedStage, *, phase: str, total_steps: int, **settings: Any
    ) -> FitResult:
        training = make_training_config(stage, phase)
        loggers = make_loggers(self.plan, self.run_dir) if self.processes.rank == 0 else []
        settings["callbacks"] = make_callbacks(self.plan, settings["callbacks"])
        fabric = make_fabric(strategy=stage.training.strategy, precision=stage.training.precision, loggers=loggers)
        with finalize_loggers(loggers), freeze_modules(distiller.student, stage.stage.freeze):
            return fit(
                distiller, self.data, steps=self.num_steps(stage), total_steps=total_steps,
                steps_per_epoch=self.steps_per_epoch(stage, "all"), training=training, run_dir=self.run_dir,
                phase=phase, stage=stage.stage.name, subset=stage.stage.subset if distiller.teachers else "labeled",
                seed=self.recipe.seed, fabric=fabric, **settings,
            )  # fmt: skip

    def with_peers(self, network: nn.Module, phase: str) -> nn.Module:
        """``network`` together with its new peers, where the recipe has some; a baseline has none."""
        if not self.recipe.peers or phase in BASELINE_PHASES:
            return network
        peers = {name: self._build_network(node, name) for name, node in self.plan.peers.items()}
        return PeerStudents({"student": network, **peers})

    def num_steps(self, stage: ResolvedStage) -> int:
        """The optimizer steps of a stage; an epoch is one pass of the distilled student, for all models alike."""
        if stage.stage.steps is not None:
            return stage.stage.steps
        subset: LabelSubset = "labeled" if stage is self.plan.teacher_training else "all"
        return self.steps_per_epoch(stage, subset) * (stage.stage.epochs or 1)

    def steps_per_epoch(self, stage: ResolvedStage, subset: LabelSubset) -> int:
        """The optimizer steps of one pass over ``subset``."""
        return max(1, self.batches(stage, subset).steps_per_epoch // stage.training.grad_accum_steps)

    def batches(self, stage: ResolvedStage, subset: LabelSubset) -> BatchSampler:
        """The training batches of a stage."""
        return self.data.batches(
            batch_size=stage.training.batch_size, batch_tokens=stage.training.batch_tokens, subset=subset,
            world_size=self.processes.world_size,
        )  # fmt: skip

    def _build_network(self, node: ResolvedNode, name: str) -> nn.Module:
        return _require_module(self._build(node, name), node)

    def _build(self, node: ResolvedNode, name: str) -> Any:
        torch.manual_seed(derive_seed(self.recipe.seed, zlib.crc32(name.encode())))
        return node.build(**data_facts(self.data))


def _set_num_threads(num_threads: int | None) -> None:
    if num_threads is None:
        return
    cores = os.cpu_count() or 1
    if num_threads > _MAX_THREADS_PER_CORE * cores:
        raise LimbeckError(
            f"num_threads must be at most {_MAX_THREADS_PER_CORE * cores} on this machine, which has {cores} cores, "
            f"got {num_threads}: remove it, or set it to {cores}"
        )
    torch.set_num_threads(num_threads)


def _require_module(module: Any, node: ResolvedNode) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise LimbeckError(f"{node.config_path}: {node.use} gave a {type(module).__name__}, not a torch.nn.Module")
    return module
