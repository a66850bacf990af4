"""A recipe come alive: its data, networks and trainings, each made by seed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, final

import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.core.protocols import Task, TeacherSource
from limbeck.data import Data
from limbeck.data.draws import mix
from limbeck.engine import Run, Training, fit, one_device
from limbeck.engine.watchers import Watcher, logger
from limbeck.models import load_weights
from limbeck.objective import Distiller
from limbeck.recipe import Plan, Recipe, StagePlan, check
from limbeck.recipe.checked import Checked
from limbeck.taps import Taps
from limbeck.teachers import Engine, Foreign, Frozen, answers
from limbeck.terms import CrossEntropy

__all__ = ["Job"]

Phase = Literal["alone", "distilled"]
_Source = Callable[[str, nn.Module, Mapping[str, str] | None], TeacherSource]
_STUDENT = zlib.crc32(b"student")


@final
@dataclass(frozen=True, slots=True)
class Job:
    """What a recipe asks for, with its data loaded.

    Attributes:
        plan: the checked recipe.
        data: cut by the recipe's seed, its sealed part bound to the run folder.
        task: what a batch means.
        folder: the run folder.
        engines: what the teachers' answers are computed by, once they were asked.
    """

    plan: Plan
    data: Data
    task: Task
    folder: Path
    engines: dict[str, Engine] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, folder: Path) -> Self:
        """Check the whole recipe, then load its data."""
        plan = check(recipe)
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        data = plan.data.build().load(seed=recipe.seed)
        if not isinstance(data, Data):
            raise LimbeckError(f"data: {plan.data.use}.load gave a {type(data).__name__}, not a limbeck.data.Data")
        task = plan.task.build(classes=len(data.classes))
        if (asked := getattr(task, "classes", len(data.classes))) != len(data.classes):
            raise LimbeckError(
                f"task.classes is {asked}, and the data has {len(data.classes)} classes ({', '.join(data.classes[:5])}"
                f"{' …' if len(data.classes) > 5 else ''}): leave task.classes away, or give other data"
            )
        sealed = data.sealed.bound(folder / "checkpoint" / "sealed.json")
        return cls(plan, replace(data, sealed=sealed), task, folder)

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was given."""
        return self.plan.recipe

    def teacher(self, name: str) -> nn.Module:
        """The teacher ``name``, with its weights where the recipe has some, and by seed where not.

        A ``Foreign`` one has none: an ONNX file, an endpoint, or the callable that a user's own function gave.
        """
        said, node = self.recipe.teachers[name], self.plan.teachers[name]
        built = self._built(node, zlib.crc32(name.encode()))
        network = built if isinstance(built, nn.Module) or not callable(built) else answers(built)
        if isinstance(network, Foreign):
            if said.weights is not None or said.engine != "eager":
                key = "engine" if said.weights is None else "weights"
                raise LimbeckError(f"{node.place}.{key}: {node.use} gave no network, so leave {key} away")
            network.normalization = network.normalization or self.data.normalization
            return network
        if said.weights is not None:
            return load_weights(_network(network, node), said.weights)
        if self.plan.teaching is None:
            raise LimbeckError(f"{node.place}: {node.use} has no weights, and there is no `teaching` to train it by")
        return _network(network, node)

    def source(self, name: str, network: nn.Module, taps: Mapping[str, str] | None = None) -> TeacherSource:
        """What answers for the teacher ``name`` while a student learns: ``network``, by the recipe's engine."""
        if name not in self.engines:
            self.engines[name] = Engine(self.recipe.teachers[name].engine, tell=partial(_tell, name))
        return Frozen(network, taps, engine=self.engines[name])

    def student(self) -> nn.Module:
        """The student at its start: the same weights each time."""
        return _network(self._built(self.plan.student, _STUDENT), self.plan.student)

    def rehearse(self) -> None:
        """Every stage once on two samples, with networks of its own that are thrown away.

        A tap that is nowhere, weights that do not fit, a head of other classes, a setting that a constructor refuses:
        each is an error now, and not after the teachers were trained.
        """
        teachers = {name: self.teacher(name) for name in self.recipe.teachers}
        plans = [(stage, self.student(), teachers) for stage in self.plan.stages]
        if self.plan.teaching is not None:
            taught = [network for network in teachers.values() if not isinstance(network, Foreign)]
            plans += [(self.plan.teaching, network, {}) for network in taught]
        for stage, network, present in plans:
            training = _training(stage)
            distiller = self._distiller(network, present, stage, phase="distilled", source=self._rehearsed)
            distiller.progress = Progress(step=0, steps=1)
            batch = self.data.stream(batch=2 * self.data.views.per_decode).batch(0)
            with torch.no_grad():
                distiller.prepare(batch).eval()(batch)
            optimizer = training.optimizer(distiller.parameters())
            if training.scheduler is not None:
                training.scheduler(optimizer, 2)
            with _frozen(network, stage.stage.frozen):
                pass

    def teach(self, name: str, network: nn.Module, *, resume: bool, watchers: Sequence[Watcher] | None) -> Run:
        """Train a teacher by the recipe's ``teaching``, on the labelled pictures."""
        assert self.plan.teaching is not None
        return self._fit(network, {}, self.plan.teaching, phase=name, resume=resume, watchers=watchers)

    def train(
        self, phase: Phase, network: nn.Module, teachers: Mapping[str, nn.Module], *, resume: bool,
        watchers: Sequence[Watcher] | None,
    ) -> Run:  # fmt: skip
        """Take the student through every stage: ``distilled`` as the recipe says, ``alone`` towards the labels only.

        Alone is the fair control: the same start, stages, number of steps, batch, optimizer, schedule and views; only
        what teachers say is missing, and the pictures without a label, about which nobody tells it anything.
        """
        seconds, steps, history = 0.0, 0, list[dict[str, Any]]()
        for stage in self.plan.stages:
            present = teachers if phase == "distilled" else {}
            run = self._fit(network, present, stage, phase=phase, resume=resume, watchers=watchers)
            seconds, steps, history = seconds + run.seconds, steps + run.steps, history + run.history
        return Run(network.eval(), history, steps, seconds, self.folder)

    def _fit(
        self, network: nn.Module, teachers: Mapping[str, nn.Module], stage: StagePlan, *, phase: str, resume: bool,
        watchers: Sequence[Watcher] | None,
    ) -> Run:  # fmt: skip
        training = _training(stage)
        distiller = self._distiller(network, teachers, stage, phase=phase, source=self.source)
        with _frozen(network, stage.stage.frozen):
            return fit(
                distiller, self.data, steps=self._steps(stage, training),
                steps_per_epoch=self._epoch(training, "all"), training=training, out=self.folder,
                phase=phase, stage=stage.stage.name, pictures="all" if distiller.teachers else "labelled",
                seed=self.recipe.seed, resume=resume, watchers=watchers,
                fabric=one_device(
                    precision=stage.training.precision,
                    loggers=[logger(name, self.folder, run=self.recipe.name) for name in self.recipe.loggers],
                ),
            )  # fmt: skip

    def _distiller(
        self, network: nn.Module, teachers: Mapping[str, nn.Module], stage: StagePlan, *, phase: str, source: _Source
    ) -> Distiller:
        """Student, teachers and objective of one stage; alone, the labels are all that is left of it."""
        objective, weights = stage.objective(classes=len(self.data.classes), seed=self.recipe.seed)
        listens = bool(teachers) and any(not isinstance(term, CrossEntropy) for term in objective.values())
        if phase == "alone":
            truth = [term for term in objective.values() if isinstance(term, CrossEntropy)]
            objective, weights = {"truth": truth[0] if truth else CrossEntropy()}, {"truth": 1.0}
        places = stage.stage.taps if listens else {}
        sources = {name: source(name, teacher, places.get(name)) for name, teacher in teachers.items() if listens}
        taps = {"student": places["student"]} if "student" in places else {}
        return Distiller(network, sources, objective=objective, weights=weights, taps=taps, task=self.task)

    def _rehearsed(self, name: str, network: nn.Module, taps: Mapping[str, str] | None = None) -> TeacherSource:
        """Like :meth:`source`, with an engine that is thrown away; two samples are no batch to choose one on."""
        engine = Engine(self.recipe.teachers[name].engine)
        engine.require_taps(taps or {})
        # To compile takes a minute, and what auto cannot use it leaves out.
        return Frozen(network, taps, engine="eager" if engine.name in ("auto", "compile") else engine)

    def _steps(self, stage: StagePlan, training: Training) -> int:
        """The optimizer steps of a stage; epochs count the pictures that the distilled student sees, for all alike."""
        if stage.stage.steps is not None:
            return stage.stage.steps
        return self._epoch(training, "labelled" if stage is self.plan.teaching else "all") * (stage.stage.epochs or 1)

    def _epoch(self, training: Training, pictures: Literal["all", "labelled"]) -> int:
        """The optimizer steps that show all those pictures once."""
        stream = self.data.stream(batch=training.batch, pictures=pictures)
        return max(1, stream.steps_per_epoch // training.accumulate)

    def _built(self, node: Checked, who: int) -> Any:
        torch.manual_seed(mix(self.recipe.seed, who))
        return node.build(classes=len(self.data.classes), channels=self.data.shape[0])


def _network(built: Any, node: Checked) -> nn.Module:
    if not isinstance(built, nn.Module):
        raise LimbeckError(f"{node.place}: {node.use} gave a {type(built).__name__}, not a torch.nn.Module")
    return built


def _tell(name: str, found: str) -> None:
    print(f"{name} answers by {found}", flush=True)  # noqa: T201


def _training(stage: StagePlan) -> Training:
    said = stage.training
    scheduler = stage.scheduler
    return Training(
        optimizer=stage.optimizer.build,
        scheduler=None if scheduler is None else lambda optimizer, steps: scheduler.build(optimizer, steps=steps),
        per="step" if said.scheduler is None else said.scheduler.per,
        batch=said.batch, accumulate=said.accumulate, clip=said.clip, ema=said.ema, patience=said.patience,
        keep=said.keep, workers=said.workers,
    )  # fmt: skip


@contextmanager
def _frozen(network: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """For one stage, parts of the student that keep their weights; an unknown path names the nearest."""
    Taps(network, {path: path for path in paths})
    kept = [p for path in paths for p in network.get_submodule(path).parameters() if p.requires_grad]
    for parameter in kept:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in kept:
            parameter.requires_grad_(True)
