"""The student, its teachers and what they are to agree on: a module that owns no training loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, nearest
from limbeck.core.loss_context import Exchange
from limbeck.core.progress import Progress
from limbeck.core.protocols import Task, TeacherSource, Term
from limbeck.core.schedules import Schedule
from limbeck.distiller.objective import Loss, Objective
from limbeck.distiller.temperature_checks import doubts
from limbeck.features import Taps
from limbeck.losses.weighting.loss_weighting import Balance
from limbeck.teachers import Combination, Frozen, combine
from limbeck.teachers.ensemble import way

__all__ = ["Distiller"]

Teachers = nn.Module | TeacherSource | Sequence[nn.Module | TeacherSource] | Mapping[str, nn.Module | TeacherSource]


@final
class Distiller(nn.Module):
    """A student with its teachers and an objective; calling it on a batch gives the loss.

    Arguments:
        student: the network that learns.
        teachers: one module, a list (named ``teacher0`` …) or names; none for a student on its own. Those of
            :mod:`limbeck.teachers.self_teachers` are made of the student.
        objective: terms by name, or an :class:`Objective`.
        weights: a number or a schedule for each term; or a balance, such as ``GradNorm()``, see :class:`Objective`.
        balance: moves the weights while training, on top of those given.
        gather: names of terms that see the batches of all processes together, see :class:`Objective`.
        taps: hidden features to read: for ``"student"`` and for each teacher's name, places by the name to give them.
        task: what a batch means, such as ``limbeck.tasks.Classification(classes=10)``.
        combination: how several teachers speak together to terms that name none: ``mean_logits``,
            ``mean_probabilities``, or one of :mod:`limbeck.teachers.combinations`. One that learns is a term of the
            objective as well, named ``combination``.

    ``parameters()`` are the student's and the terms' own (projections), never a teacher's; ``state_dict()`` likewise.
    Teachers stay in eval mode, get no gradient, and follow ``.to(device)``. A term that learns is shaped by
    :meth:`prepare`, before the optimizer is built; asking for the parameters before that is an error, since the
    optimizer would miss the projection without a word. A temperature that the task is not used to is a warning.

    The loop is yours (plain, Lightning, ``transformers.Trainer``, Accelerate) or :func:`limbeck.fit`'s:

    >>> import limbeck
    >>> from limbeck.losses import SoftTarget
    >>> student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    >>> task = limbeck.tasks.Classification(classes=3)
    >>> distiller = Distiller(student, teacher, objective={"soft": SoftTarget(tau=4.0)}, task=task)
    >>> loss = distiller((torch.randn(8, 4), torch.zeros(8, dtype=torch.long)))
    >>> loss.total.backward()
    >>> sum(p.numel() for p in distiller.parameters())
    15
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Teachers | None = None,
        *,
        objective: Mapping[str, Term] | Objective,
        weights: Mapping[str, float | Schedule] | Balance | None = None,
        balance: Balance | None = None,
        gather: Collection[str] = (),
        taps: Mapping[str, Mapping[str, str]] | None = None,
        task: Task,
        combination: Combination | str = "mean_logits",
    ) -> None:
        super().__init__()
        twice = [name for name, given in (("weights", weights), ("gather", gather), ("balance", balance)) if given]
        if isinstance(objective, Objective) and twice:
            raise LimbeckError(f"{twice[0]} were given twice: this Objective has its own")
        taps = dict(taps or {})
        named = _named(teachers)
        for name in taps:
            if name != "student" and name not in named:
                raise LimbeckError(f"taps are given for {name!r}; there are: {nearest(name, ['student', *named])}")
        self.student = student
        if not isinstance(objective, Objective):
            objective = Objective(objective, weights, gather=gather, balance=balance)
        how = way(combination)
        learns = isinstance(how, nn.Module) and len(named) > 1
        objective = _with(objective, how) if learns else objective
        self.objective = objective
        if (watch := getattr(objective.balance, "watch", None)) is not None:
            watch(student)
        # In a list: what learns belongs to the objective, and must not be registered twice.
        self.task, self._combination = task, [how]
        for doubt in doubts(objective.terms, task):
            warnings.warn(doubt, stacklevel=2)
        self.progress = Progress()
        # A plain dict: nn.Module must not register the teachers as its own.
        self.teachers: dict[str, TeacherSource] = {
            name: _source(name, teacher, taps.get(name), student) for name, teacher in named.items()
        }
        self._moving = [one for one in self.teachers.values() if hasattr(one, "follow") or hasattr(one, "hear")]
        self.student_taps = dict(taps.get("student", {}))
        self._taps = Taps(student, self.student_taps)

    @property
    def combination(self) -> Combination:
        """How several teachers speak together to terms that name none."""
        return self._combination[0]

    def forward(self, batch: Any = None, /, **fields: Any) -> Loss:
        """The loss of one batch, given whole or, as ``transformers.Trainer`` does, by keywords."""
        objective = self.objective
        if not objective.ready:
            raise LimbeckError(f"{_UNREADY} before training: call distiller.prepare(batch)")
        if batch is not None and fields:
            raise LimbeckError(f"a batch is given whole or by keywords, and here are both: {', '.join(fields)}")
        if self._moving and self.training:
            return self._moved(fields if batch is None else batch)
        loss: Loss = objective(self.exchange(fields if batch is None else batch))
        return loss

    def exchange(self, batch: Any) -> Exchange:
        """What student and teachers say about ``batch``."""
        if not len(self._taps):
            student = self.task.outputs(self.student, batch)
        else:
            with self._taps.listening() as heard:
                student = self.task.outputs(self.student, batch)
            student = replace(student, taps=heard)
        teachers = {name: teacher.answer(batch, self.task) for name, teacher in self.teachers.items()}
        target = self.task.target(batch)
        return Exchange(
            student=student,
            teachers=teachers,
            teacher=combine(teachers, how=self.combination, target=target, progress=self.progress),
            target=target,
            index=_index(batch),
            progress=self.progress,
        )

    def _moved(self, batch: Any) -> Loss:
        """The loss of one batch where teachers are made of the student: they move before it, and hear what it says."""
        for teacher in self._moving:
            if (follow := getattr(teacher, "follow", None)) is not None:
                follow(self.student, self.progress)
        exchange = self.exchange(batch)
        loss: Loss = self.objective(exchange)
        for teacher in self._moving:
            if (hear := getattr(teacher, "hear", None)) is not None:
                hear(batch, exchange.student)
        return loss

    def prepare(self, batch: Any) -> Self:
        """Shape what the terms learn by one dry pass over ``batch``, which moves no BatchNorm statistics.

        Nothing happens where no term learns, or where it was done.
        """
        if not self.objective.ready:
            modes = {module: module.training for module in self.student.modules()}
            self.student.eval()
            try:
                with torch.no_grad():
                    self.objective.prepare(self.exchange(batch))
            finally:
                for module, mode in modes.items():
                    module.training = mode
        return self

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The student's and the terms' own parameters; see the class."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Like :meth:`parameters`, with names."""
        if not self.objective.ready:
            raise LimbeckError(f"{_UNREADY} before its parameters are asked for: call distiller.prepare(batch)")
        return super().named_parameters(prefix, recurse, remove_duplicate)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for teacher in self.teachers.values():
            if (move := getattr(teacher, "move", None)) is not None:
                move(fn)
        return self

    def extra_repr(self) -> str:
        return f"teachers={list(self.teachers)}, loss = {self.objective}"


_COMBINATION = "combination"
_UNREADY = "a term of this objective learns a projection, which has to be shaped"


def _index(batch: Any) -> Tensor | None:
    """The number of each sample in the data, where the batch says it."""
    index = batch.get("index") if isinstance(batch, Mapping) else None
    return index if isinstance(index, Tensor) and index.ndim == 1 else None


def _with(objective: Objective, combination: Any) -> Objective:
    """``objective`` with a combination that learns among its terms, where it is trained and kept like any other."""
    if _COMBINATION in objective.terms:
        raise LimbeckError(f"the teachers' weights are learned by a term named {_COMBINATION!r}: rename the other one")
    terms = {**objective.terms, _COMBINATION: combination}
    return Objective(terms, objective.weights, gather=objective.gather, balance=objective.balance)


def _named(teachers: Teachers | None) -> dict[str, nn.Module | TeacherSource]:
    if teachers is None:
        return {}
    if isinstance(teachers, Mapping):
        if "student" in teachers:
            raise LimbeckError("a teacher cannot be named 'student': taps and reports would confuse the two")
        return dict(teachers)
    # A ModuleList is one module to Python and several teachers to its user.
    if isinstance(teachers, Sequence | nn.ModuleList):
        return {f"teacher{i}": teacher for i, teacher in enumerate(teachers)}
    return {"teacher": teachers}


def _source(
    name: str, teacher: nn.Module | TeacherSource, taps: Mapping[str, str] | None, student: nn.Module
) -> TeacherSource:
    network = teacher if isinstance(teacher, nn.Module) else getattr(teacher, "network", None)
    if isinstance(network, nn.Module):
        _refuse_shared(name, network, student)
    if isinstance(teacher, nn.Module):
        return Frozen(teacher, taps)
    if isinstance(teacher, type) or not isinstance(teacher, TeacherSource):
        raise LimbeckError(f"the teacher {name!r} is {teacher!r}, and a teacher is a network, such as an nn.Module")
    bound = getattr(teacher, "bound", None)
    source: TeacherSource = teacher if bound is None else bound(student)
    if not taps:
        return source
    if not hasattr(source, "tapped"):
        raise LimbeckError(f"the teacher {name!r} is no module, so it cannot be tapped: {teacher!r}")
    tapped: TeacherSource = source.tapped(taps)
    return tapped


def _refuse_shared(name: str, teacher: nn.Module, student: nn.Module) -> None:
    """A shared parameter would freeze with the teacher; a shared buffer or dropout would follow the wrong mode."""
    for what, own, its in (
        ("parameters", student.parameters(), teacher.parameters()),
        ("buffers", student.buffers(), teacher.buffers()),
        ("modules", student.modules(), teacher.modules()),
    ):
        if {id(one) for one in own} & {id(one) for one in its}:
            raise LimbeckError(
                f"the teacher {name!r} shares {what} with the student, and freezing it would freeze the student: "
                "give copy.deepcopy(teacher)"
            )
