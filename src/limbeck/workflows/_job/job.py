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
from limbeck.core.protocols import Task, TeacherSource
from limbeck.data import Data
from limbeck.data.counter_rng import mix
from limbeck.distiller import (
    Distiller,
    Objective,
    Peers,
    Together,
    deployed,
    doubts,
    each_teacher,
    early_exits,
    for_each_peer,
    reused,
)
from limbeck.losses import CrossEntropy, SimKD
from limbeck.models import load_weights
from limbeck.recipe import Plan, Recipe, StagePlan, check
from limbeck.recipe.resolved_node import Checked
from limbeck.recipe.study_schema import CONTROLS
from limbeck.teachers import Cached, Engine, Foreign, Format, Frozen, answers
from limbeck.training import Processes, Run, Training, fit, frozen, launched
from limbeck.training.callbacks import Watcher, logger
from limbeck.utils.all_gather import apart
from limbeck.workflows._job.data_cache import Loaded
from limbeck.workflows._job.distillers import dealt, require_processes, training_of
from limbeck.workflows._job.teachers import partly, translated

__all__ = ["Job"]

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
        caches: where their answers are kept, if they are, as they were opened: for each stage anew.
        processes: those that work on it, of which this is one.
        peers: the students that learned together with the distilled one, once it is trained.
        exits: its early exits, once it is trained.
    """

    plan: Plan
    data: Data
    task: Task
    folder: Path
    engines: dict[str, Engine] = field(default_factory=dict)
    caches: list[tuple[str, Cached]] = field(default_factory=list)
    processes: Processes = field(default_factory=Processes)
    peers: dict[str, nn.Module] = field(default_factory=dict)
    exits: dict[str, nn.Module] = field(default_factory=dict)

    @classmethod
    def of(
        cls, recipe: Recipe, folder: Path, processes: Processes = Processes(), loaded: Loaded | None = None
    ) -> Self:  # fmt: skip
        """Check the whole recipe, then load its data, or take it from ``loaded`` where another job has loaded it."""
        plan = check(recipe)
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        data = (loaded or Loaded()).of(plan)
        if not isinstance(data, Data):
            raise LimbeckError(f"data: {plan.data.use}.load gave a {type(data).__name__}, not a limbeck.data.Data")
        task = plan.task.build(classes=len(data.classes))
        if (asked := getattr(task, "classes", len(data.classes))) != len(data.classes):
            raise LimbeckError(
                f"task.classes is {asked}, and the data has {len(data.classes)} classes ({', '.join(data.classes[:5])}"
                f"{' …' if len(data.classes) > 5 else ''}): leave task.classes away, or give other data"
            )
        sealed = data.sealed.bound(folder / "checkpoint" / "sealed.json")
        return cls(plan, replace(data, sealed=sealed, order=recipe.seed), task, folder, processes=processes)

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
        elif said.weights is not None:
            network = load_weights(_network(network, node), said.weights)
        elif self.plan.teaching is None:
            raise LimbeckError(f"{node.place}: {node.use} has no weights, and there is no `teaching` to train it by")
        return translated(_network(network, node), said, self.data, place=node.place)

    def source(self, name: str, network: nn.Module, taps: Mapping[str, str] | None = None) -> TeacherSource:
        """What answers for the teacher ``name`` while a student learns.

        It is ``network``, by the recipe's engine, asked once where the recipe keeps answers in a cache.
        """
        if name not in self.engines:
            tell = _tell if self.processes.rank == 0 else _tell_nobody
            self.engines[name] = Engine(self._engine(name), tell=partial(tell, name))
        asked: TeacherSource = Frozen(network, taps, engine=self.engines[name])
        if self.recipe.cache is not None:
            self.caches.append((name, self._cached(name, asked)))
            asked = self.caches[-1][1]
        return self._partly(name, asked)

    def kept(self, network: nn.Module, teachers: Mapping[str, nn.Module]) -> list[tuple[str, Cached]]:
        """The caches that the stages of the recipe read, each once: by teacher, and by what is tapped in it."""
        for stage in self.plan.stages:
            self._distiller(network, teachers, stage, phase="distilled", source=self.source)
        return list({(name, cached.subject): (name, cached) for name, cached in self.caches}.values())

    def assistant(self, name: str) -> nn.Module:
        """The assistant ``name`` at its start, by seed."""
        node = self.plan.assistants[name]
        return _network(self._built(node, zlib.crc32(name.encode())), node)

    def student(self) -> nn.Module:
        """The student at its start: the same weights each time."""
        return _network(self._built(self.plan.student, _STUDENT), self.plan.student)

    def shipped(self) -> nn.Module:
        """The distilled student in the shape in which a finished run keeps it, with weights that mean nothing yet.

        It is the student's own shape, unless the last stage deploys more (:func:`limbeck.distiller.deployment`).
        """
        student, stage = self.student(), self.plan.stages[-1]
        objective, _ = stage.objective(classes=len(self.data.classes), seed=self.recipe.seed)
        if not any(isinstance(term, SimKD) for term in objective.values()):
            return student
        teachers = {}
        for name in self.recipe.links()[-1].guides:
            node, said = self.plan.teachers[name], self.recipe.teachers[name]
            teachers[name] = translated(_network(self._built(node, 0), node), said, self.data, place=node.place)
        distiller = self._distiller(student, teachers, stage, phase="distilled", source=self._asked)
        batch = self.data.stream(batch=2).batch(0)
        with torch.no_grad():
            distiller.prepare(batch)
        return deployed(distiller)

    def rehearse(self) -> None:
        """Every stage once on two samples, with networks of its own that are thrown away.

        A tap that is nowhere, weights that do not fit, a head of other classes, a setting that a constructor refuses:
        each is an error now, and not after the teachers were trained.
        """
        require_processes(self.recipe, self.processes.world)
        teachers = {name: self.teacher(name) for name in self.recipe.teachers}
        everyone = teachers | {name: self.assistant(name) for name in self.recipe.assistants}
        plans: list[tuple[StagePlan, nn.Module, Mapping[str, nn.Module], str]] = []
        for learner, guides in self.recipe.links():
            network = everyone[learner] if learner in everyone else self.student()
            known = {name: everyone[name] for name in guides}
            network = self._learner(network, learner)
            plans += [(stage, network, known, learner) for stage in self.plan.stages]
        if "direct" in self.recipe.controls:
            plans += [(stage, self.student(), teachers, "direct") for stage in self.plan.stages]
        if self.plan.teaching is not None:
            taught = {name: network for name, network in teachers.items() if not isinstance(network, Foreign)}
            plans += [(self.plan.teaching, network, {}, name) for name, network in taught.items()]
        for stage, network, present, phase in plans:
            training = training_of(stage)
            distiller = self._distiller(network, present, stage, phase=phase, source=self._rehearsed)
            distiller.progress = Progress(step=0, steps=1, total=1)
            stream = self.data.stream(batch=training.batch)
            # Of one sample twice it is certain that both are of one class.
            two = torch.arange(2) % (1 if training.sampling == "classmates" else len(stream.part))
            batch = stream.show(two, torch.zeros_like(two))
            with torch.no_grad(), apart():
                distiller.prepare(batch).eval()(batch)
                deployed(distiller)
            if phase in self.recipe.assistants and (found := reused(distiller)):
                raise LimbeckError(
                    f"stages: {found[0]} (SimKD) ends a student in its teacher's classifier, and an assistant teaches "
                    "on as a network of its own: leave assistants away, or SimKD"
                )
            optimizer = training.optimizer(distiller.parameters())
            if training.scheduler is not None:
                training.scheduler(optimizer, 2)
            with frozen(network, stage.stage.frozen):
                pass

    def doubts(self) -> list[str]:
        """What is to be said of the temperatures of the stages, each once."""
        given = {"classes": len(self.data.classes), "seed": self.recipe.seed}
        said = [text for stage in self.plan.stages for text in doubts(stage.objective(**given)[0], self.task)]
        return list(dict.fromkeys(said))

    def lengths(self) -> list[int]:
        """The optimizer steps of each stage."""
        return [self._steps(stage, training_of(stage)) for stage in self.plan.stages]

    def trial(self, number: int, guides: Mapping[str, nn.Module] | None) -> tuple[Distiller, Training]:
        """A fresh student in a stage, taught by ``guides`` or (``None``) alone, to be looked at and thrown away."""
        stage = self.plan.stages[number]
        phase = "alone" if guides is None else "distilled"
        network = self._learner(self.student(), phase)
        distiller = self._distiller(network, guides or {}, stage, phase=phase, source=self._asked)
        return distiller, dealt(training_of(stage), phase)

    def teach(self, name: str, network: nn.Module, *, resume: bool, watchers: Sequence[Watcher] | None) -> Run:
        """Train a teacher by the recipe's ``teaching``, on the labelled pictures."""
        assert self.plan.teaching is not None
        steps, share = self._steps(self.plan.teaching, training_of(self.plan.teaching)), self.recipe.teachers[name].stop
        stop = None if share is None else max(1, round(share * steps))
        distiller = self._distiller(network, {}, self.plan.teaching, phase=name, source=self.source)
        return self._fit(
            distiller, self.plan.teaching, phase=name, stop=stop, total=steps, resume=resume, watchers=watchers
        )

    def train(
        self, phase: str, network: nn.Module, teachers: Mapping[str, nn.Module], *, resume: bool,
        watchers: Sequence[Watcher] | None,
    ) -> Run:  # fmt: skip
        """Take a network through every stage, as the recipe says; ``alone`` towards the labels only.

        Alone is the fair control: the same start, stages, number of steps, batch, optimizer, schedule and views; only
        what teachers say is missing, and the pictures without a label, about which nobody tells it anything.
        """
        seconds, steps, history = 0.0, 0, list[dict[str, Any]]()
        lengths, learner = self.lengths(), self._learner(network, phase)
        earlier: list[Objective] = []
        for number, stage in enumerate(self.plan.stages):
            distiller = self._distiller(learner, teachers, stage, phase=phase, source=self.source)
            for objective in earlier:
                distiller.objective.follow(objective)
            run = self._fit(
                distiller, stage, phase=phase, before=sum(lengths[:number]), total=sum(lengths), resume=resume,
                watchers=watchers,
            )  # fmt: skip
            earlier.append(distiller.objective)
            seconds, steps, history = seconds + run.seconds, steps + run.steps, history + run.history
        if isinstance(learner, Peers):
            self.peers.update({name: peer for name, peer in learner.students().items() if peer is not network})
        if phase not in self.recipe.assistants:
            self.exits.update(early_exits(distiller))
        kept = network.eval() if isinstance(learner, Peers) else run.student
        return Run(kept, history, steps, seconds, self.folder)

    def _fit(
        self, distiller: Distiller, stage: StagePlan, *, phase: str, stop: int | None = None, before: int = 0,
        total: int, resume: bool, watchers: Sequence[Watcher] | None,
    ) -> Run:  # fmt: skip
        training = dealt(training_of(stage), phase)
        with frozen(distiller.student, stage.stage.frozen):
            return fit(
                distiller, self.data, steps=self._steps(stage, training), stop=stop, before=before, total=total,
                steps_per_epoch=self._epoch(training, "all"), training=training, out=self.folder,
                phase=phase, stage=stage.stage.name, pictures="all" if distiller.teachers else "labelled",
                seed=self.recipe.seed, resume=resume, watchers=watchers,
                fabric=launched(
                    strategy=stage.training.strategy, precision=stage.training.precision, loggers=self._loggers()
                ),
            )  # fmt: skip

    def _distiller(
        self, network: nn.Module, teachers: Mapping[str, nn.Module], stage: StagePlan, *, phase: str, source: _Source
    ) -> Distiller:
        """Learner, teachers and objective of one stage; alone, the labels are all that is left of it."""
        objective, weights = stage.objective(classes=len(self.data.classes), seed=self.recipe.seed)
        gathered = stage.gathered
        if self.recipe.guided == "dense" and phase not in CONTROLS:
            objective, weights = each_teacher(objective, weights, list(teachers))
            gathered += tuple(f"{name}-{teacher}" for name in gathered for teacher in teachers)
        beyond = any(not isinstance(term, CrossEntropy) for term in objective.values())
        listens = bool(teachers) and beyond
        itself = self.plan.self_teachers if beyond and stage is not self.plan.teaching else {}
        if phase in CONTROLS:
            truth = {name: term for name, term in objective.items() if isinstance(term, CrossEntropy)}
            called, term = next(iter(truth.items()), ("truth", CrossEntropy()))
            objective, weights, gathered = {"truth": term}, {"truth": 1.0}, ("truth",) if called in gathered else ()
            beyond, itself = False, {}
        places = stage.stage.taps if beyond else {}
        sources = {name: source(name, teacher, places.get(name)) for name, teacher in teachers.items() if listens}
        # An assistant that learns is the student of its own training, and its places go by its own name.
        own = places.get(phase if phase in self.plan.assistants else "student", {})
        # Those that are made of the student are bound to it by the distiller, which taps them as well.
        sources |= {name: node.build(classes=len(self.data.classes)) for name, node in itself.items()}
        tapped = {"student": own, **{name: places[name] for name in itself if name in places}}
        task = self.task
        if isinstance(network, Peers):
            task, weights = Together(task, len(network.names)), for_each_peer(weights, len(network.names))
        balance = None if stage.balance is None or phase in CONTROLS else stage.balance.build()
        with warnings.catch_warnings():
            # The run tells its doubts once, with its other warnings, and not for each stage and rehearsal.
            warnings.filterwarnings("ignore", message="the temperature of", category=UserWarning)
            return Distiller(
                network, sources, objective=objective, weights=weights,
                taps={name: taps for name, taps in tapped.items() if taps}, task=task,
                gather=[name for name in objective if name in gathered], balance=balance,
                combination=self.plan.combination.build(seed=self.recipe.seed) if len(teachers) > 1 else "mean_logits",
            )  # fmt: skip

    def _asked(self, name: str, network: nn.Module, taps: Mapping[str, str] | None = None) -> TeacherSource:
        """Like :meth:`source`, and never from a cache."""
        return Frozen(network, taps, engine=Engine(self._engine(name), tell=partial(_tell_nobody, name)))

    def _learner(self, network: nn.Module, phase: str) -> nn.Module:
        """``network``, or together with its peers where it has some: those of the distilled student, at their start."""
        if not self.recipe.peers or phase in CONTROLS:
            return network
        peers = {
            name: _network(self._built(node, zlib.crc32(name.encode())), node) for name, node in self.plan.peers.items()
        }
        return Peers({"student": network, **peers})

    def _rehearsed(self, name: str, network: nn.Module, taps: Mapping[str, str] | None = None) -> TeacherSource:
        """Like :meth:`source`, with an engine that is thrown away; two samples are no batch to choose one on."""
        if self.recipe.cache is not None:
            self._cached(name, Frozen(network))  # which looks at the views
        engine = Engine(self._engine(name))
        engine.require_taps(taps or {})
        # To compile takes a minute, and what auto cannot use it leaves out.
        source = Frozen(network, taps, engine="eager" if engine.name in ("auto", "compile") else engine)
        return self._partly(name, source)

    def _partly(self, name: str, source: TeacherSource) -> TeacherSource:
        return partly(source, self.recipe.teachers.get(name), self.data, place=f"teachers.{name}")

    def _cached(self, name: str, asked: TeacherSource) -> Cached:
        said = self.recipe.cache
        assert said is not None
        kept = Format(top=said.top, tail=said.tail, precision=said.precision, features=said.features, pool=said.pool)
        return Cached(asked, self.data, root=said.root, format=kept, name=name)

    def _loggers(self) -> list[Any]:
        if self.processes.rank:
            return []
        return [logger(name, self.folder, run=self.recipe.name) for name in self.recipe.loggers]

    def _engine(self, name: str) -> str:
        """By what ``name`` answers; an assistant as it is."""
        return self.recipe.teachers[name].engine if name in self.recipe.teachers else "eager"

    def _steps(self, stage: StagePlan, training: Training) -> int:
        """The optimizer steps of a stage; epochs count the pictures that the distilled student sees, for all alike."""
        if stage.stage.steps is not None:
            return stage.stage.steps
        return self._epoch(training, "labelled" if stage is self.plan.teaching else "all") * (stage.stage.epochs or 1)

    def _epoch(self, training: Training, pictures: Literal["all", "labelled"]) -> int:
        """The optimizer steps that show all those pictures once."""
        stream = self.data.stream(batch=training.batch, pictures=pictures, world=self.processes.world)
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


def _tell_nobody(name: str, found: str) -> None:
    """The first process has told it."""
