"""Student, teachers and objective as one module, without a training loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.loss_context import DEFAULT_TEMPERATURE, LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.core.protocols import ReadsTeacherModules, Task, Teacher
from limbeck.core.schedules import Schedule
from limbeck.distiller.function_loss import LossLike
from limbeck.distiller.logit_checks import refuse_softmax, require_equal_anchors, require_logits
from limbeck.distiller.objective import LossOutput, Objective, name_losses
from limbeck.features import FeatureExtractor, layer_root
from limbeck.losses.temperature import Range, temperature_warnings
from limbeck.losses.weighting import LossWeighting
from limbeck.teachers.ensemble import EnsembleMethod, combine_teachers, resolve_ensemble
from limbeck.teachers.frozen import FrozenTeacher
from limbeck.teachers.teacher_logits import UnequalLogitsError
from limbeck.utils.eval_mode import eval_mode

Teachers = nn.Module | Teacher | Sequence[nn.Module | Teacher] | Mapping[str, nn.Module | Teacher]


@final
class Distiller(nn.Module):
    """A student with its teachers and an objective; calling it on a batch gives the loss.

    Args:
        student: the network to train.
        teachers: a module, a list (named ``teacher0`` …) or a mapping by name; ``None`` trains without a teacher. Those
            of :mod:`limbeck.teachers.self_teachers` are made of the student.
        objective: losses by name, also functions of the logits of student and teacher; one loss (``KDLoss()``); or
            an :class:`Objective`.
        weights: a number or a schedule per loss, or a loss weighting such as ``GradNorm()``.
        loss_weighting: adapts the weights during training, as factors of ``weights``.
        gather_distributed: names of losses that get the batches of all processes, see :class:`Objective`.
        feature_layers: for ``"student"`` and each teacher, the layers to read by feature name.
        task: what a batch means, such as ``limbeck.tasks.Classification(classes=10)``.
        ensemble: how the outputs of several teachers are combined for losses without ``teacher``: ``mean_logits``,
            ``mean_probabilities``, or one of :mod:`limbeck.teachers.ensemble`. One with parameters becomes a
            loss of the objective, named ``ensemble``.

    ``parameters()`` and ``state_dict()`` hold the student and the losses (projections), not the teachers. Teachers stay
    in eval mode without gradients and follow ``.to(device)``. Losses with projections need :meth:`prepare` before the
    optimizer is built; ``parameters()`` raises an error before. A temperature outside the task's range is a warning.

    Train it in any loop (plain, Lightning, ``transformers.Trainer``, Accelerate) or by :func:`limbeck.fit`:

    >>> import limbeck, torch
    >>> from torch import nn
    >>> from limbeck.losses import KDLoss
    >>> student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    >>> task = limbeck.tasks.Classification(classes=3)
    >>> distiller = Distiller(student, teacher, objective={"kd": KDLoss(temperature=4.0)}, task=task)
    >>> loss = distiller((torch.randn(8, 4), torch.zeros(8, dtype=torch.long)))
    >>> loss.total.backward()
    >>> sum(p.numel() for p in distiller.parameters())
    15
    """

    accepts_loss_kwargs: ClassVar[bool] = False
    """Read by ``transformers.Trainer``: the loss is a mean over the batch, to be divided by the accumulation steps."""

    def __init__(
        self,
        student: nn.Module,
        teachers: Teachers | None = None,
        *,
        objective: Mapping[str, LossLike] | LossLike | Objective,
        weights: Mapping[str, float | Schedule] | LossWeighting | None = None,
        loss_weighting: LossWeighting | None = None,
        gather_distributed: Collection[str] = (),
        feature_layers: Mapping[str, Mapping[str, str]] | None = None,
        task: Task,
        ensemble: EnsembleMethod | str = "mean_logits",
    ) -> None:
        super().__init__()
        if not isinstance(student, nn.Module):
            raise LimbeckError(f"student must be an nn.Module, got {type(student).__name__}: build the network first")
        options = {"weights": weights, "gather_distributed": gather_distributed, "loss_weighting": loss_weighting}
        if isinstance(objective, Objective) and (duplicates := [name for name, value in options.items() if value]):
            raise LimbeckError(f"{duplicates[0]} were given twice: this Objective has its own")
        feature_layers = dict(feature_layers or {})
        named_teachers = _name_teachers(teachers)
        for name in feature_layers:
            if name != "student" and name not in named_teachers:
                raise LimbeckError(
                    f"feature_layers are given for {name!r}; available: "
                    f"{suggest_names(name, ['student', *named_teachers])}"
                )
        self.student = student
        if not isinstance(objective, Objective):
            objective = Objective(
                name_losses(objective), weights, gather_distributed=gather_distributed, loss_weighting=loss_weighting
            )
        ensemble_method = resolve_ensemble(ensemble)
        is_learned = isinstance(ensemble_method, nn.Module) and len(named_teachers) > 1
        objective = _add_ensemble_loss(objective, ensemble_method) if is_learned else objective
        self.objective = objective
        if objective.loss_weighting is not None:
            objective.loss_weighting.set_student(student)
        self._sample_targets = getattr(task, "sample_targets", None)
        self._input_mask = getattr(task, "input_mask", None)
        self._prepare_batch = getattr(task, "prepare_batch", None)
        self._has_sigmoid_classes = getattr(task, "has_sigmoid_classes", None)
        # In a list, since its parameters belong to the objective and must not be registered twice.
        self.task, self._ensemble = task, [ensemble_method]
        temperatures = getattr(task, "temperatures", None)
        self._default_temperature = temperatures.default if isinstance(temperatures, Range) else DEFAULT_TEMPERATURE
        for message in temperature_warnings(objective.losses, task):
            warnings.warn(message, stacklevel=2)
        self.progress = Progress()
        # A plain dict: nn.Module must not register the teachers as its own.
        self.teachers: dict[str, Teacher] = {
            name: _make_teacher(name, teacher, feature_layers.get(name), student)
            for name, teacher in named_teachers.items()
        }
        networks = {name: teacher.network for name, teacher in self.teachers.items()}
        for loss in self.objective.losses.values():
            if isinstance(loss, ReadsTeacherModules):
                loss.set_teachers({name: None if net is None else layer_root(net) for name, net in networks.items()})
        self.student_feature_layers = dict(feature_layers.get("student", {}))
        self._feature_extractor = FeatureExtractor(student, self.student_feature_layers)
        self._has_checked_logits = False

    @property
    def ensemble(self) -> EnsembleMethod:
        """How teacher outputs are combined for losses without ``teacher``."""
        return self._ensemble[0]

    def forward(self, batch: Any = None, /, **fields: Any) -> LossOutput:
        """Compute the loss of a batch, given as one argument or, as by ``transformers.Trainer``, as keywords.

        Raises:
            LimbeckError: the losses are not prepared, or (in the first call) a network returns probabilities, a loss
            with a softmax does not fit the head, or a loss compares rows of different anchors.
        """
        objective = self.objective
        if not objective.is_prepared:
            raise LimbeckError(_NOT_PREPARED)
        if batch is not None and fields:
            raise LimbeckError(f"a batch must be one argument or keywords, got both: {', '.join(fields)}")
        batch = fields if batch is None else batch
        if self.training:
            for teacher in self.teachers.values():
                teacher.on_step_start(self.student, self.progress)
        context = self.forward_context(batch)
        if not self._has_checked_logits:
            object.__setattr__(self, "_has_checked_logits", True)
            require_logits({"student": context.student, **context.teachers})
            require_equal_anchors(objective.losses, context)
            if self._has_sigmoid_classes is not None and self._has_sigmoid_classes(context.student):
                refuse_softmax(objective.losses, self.ensemble if len(self.teachers) > 1 else None)
        loss: LossOutput = objective(context)
        if self.training:
            for teacher in self.teachers.values():
                teacher.on_step_end(batch, context.student)
        return loss

    def forward_context(self, batch: Any) -> LossContext:
        """Run student and teachers on ``batch``."""
        teacher_batch = batch
        if self.training and self._prepare_batch is not None:
            batch, teacher_batch = self._prepare_batch(self.student, batch, self._query_teachers)
        with self._feature_extractor.capture() as features:
            student = self.task.outputs(self.student, batch)
        if features:
            student = replace(student, features=features)
        teachers = self._query_teachers(teacher_batch)
        target = self.task.target(batch)
        sample_targets = {} if self._sample_targets is None else self._sample_targets(batch)
        if len(teachers) > 1:
            combined = self._combine(teachers, target, sample_targets.get("mask"))
        else:  # without the check of the ensemble, which takes 0.1 ms
            combined = next(iter(teachers.values()), None)
        return LossContext(
            student=student,
            teachers=teachers,
            teacher=combined,
            target=target,
            sample_targets=sample_targets,
            input_mask=None if self._input_mask is None else self._input_mask(batch),
            sample_ids=_sample_ids(batch),
            progress=self.progress,
            default_temperature=self._default_temperature,
        )

    def _combine(
        self, teachers: Mapping[str, Outputs], target: Tensor | None, spatial_target: Tensor | None
    ) -> Outputs | None:
        """The ensemble; ``None`` where logits cannot be combined, so that losses which name their teacher work."""
        options: dict[str, Any] = {"ensemble": self.ensemble, "target": target, "spatial_target": spatial_target}
        try:
            return combine_teachers(teachers, progress=self.progress, **options)
        except UnequalLogitsError:
            return None

    def _query_teachers(self, batch: Any) -> dict[str, Outputs]:
        return {name: teacher.predict(batch, self.task) for name, teacher in self.teachers.items()}

    def prepare(self, batch: Any) -> Self:
        """Build the projections of the losses by a forward pass in eval mode, if there are any."""
        if not self.objective.is_prepared:
            with eval_mode(self.student):
                self.objective.prepare(self.forward_context(batch))
        return self

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The parameters of the student and the losses."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Like :meth:`parameters`, with names."""
        if not self.objective.is_prepared:
            raise LimbeckError(_NOT_PREPARED)
        return super().named_parameters(prefix, recurse, remove_duplicate)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for teacher in self.teachers.values():
            teacher.to(fn)
        return self

    def __repr__(self) -> str:
        teachers = ", ".join(f"{name}: {teacher!r}" for name, teacher in self.teachers.items())
        num_parameters = sum(parameter.numel() for parameter in self.student.parameters())
        return (
            f"Distiller(student={type(self.student).__name__} with {num_parameters:,} parameters, "
            f"teachers={{{teachers}}}, objective={self.objective.formula}, task={self.task!r})"
        )


_ENSEMBLE = "ensemble"
_NOT_PREPARED = (
    "a loss of this objective learns a projection, which needs the shapes of features: call distiller.prepare(batch) "
    "before training and before parameters() is read"
)


def _sample_ids(batch: Any) -> Tensor | None:
    """The ``sample_id`` of a batch, if it has one."""
    sample_ids = batch.get("sample_id") if isinstance(batch, Mapping) else None
    return sample_ids if isinstance(sample_ids, Tensor) and sample_ids.ndim == 1 else None


def _add_ensemble_loss(objective: Objective, ensemble: Any) -> Objective:
    """Add a trainable ensemble to the losses, where it is trained and saved like them."""
    if _ENSEMBLE in objective.losses:
        raise LimbeckError(f"the ensemble of the teachers is a loss named {_ENSEMBLE!r}: rename the other loss")
    losses = {**objective.losses, _ENSEMBLE: ensemble}
    return Objective(
        losses,
        objective.weights,
        gather_distributed=objective.gather_distributed,
        loss_weighting=objective.loss_weighting,
    )


def _name_teachers(teachers: Teachers | None) -> dict[str, nn.Module | Teacher]:
    if teachers is None:
        return {}
    if isinstance(teachers, Mapping):
        if "student" in teachers:
            raise LimbeckError("a teacher cannot be named 'student': rename it")
        return dict(teachers)
    # A ModuleList is one module to Python and several teachers to its user.
    if isinstance(teachers, Sequence | nn.ModuleList):
        return {f"teacher{i}": teacher for i, teacher in enumerate(teachers)}
    return {"teacher": teachers}


def _make_teacher(
    name: str, teacher: nn.Module | Teacher, feature_layers: Mapping[str, str] | None, student: nn.Module
) -> Teacher:
    if not isinstance(teacher, nn.Module) and (isinstance(teacher, type) or not isinstance(teacher, Teacher)):
        raise LimbeckError(
            f"the teacher {name!r} must be an nn.Module or inherit from limbeck.core.protocols.Teacher, got {teacher!r}"
        )
    network = teacher if isinstance(teacher, nn.Module) else teacher.network
    if network is not None:
        _refuse_shared(name, network, student)
    if isinstance(teacher, nn.Module):
        return FrozenTeacher(teacher, feature_layers)
    bound = teacher.bind_student(student)
    return bound.with_features(feature_layers) if feature_layers else bound


def _refuse_shared(name: str, teacher: nn.Module, student: nn.Module) -> None:
    """Raise an error for what the teacher shares with the student, which would freeze with the teacher."""
    for kind, student_items, teacher_items in (
        ("parameters", student.parameters(), teacher.parameters()),
        ("buffers", student.buffers(), teacher.buffers()),
        ("modules", student.modules(), teacher.modules()),
    ):
        if {id(item) for item in student_items} & {id(item) for item in teacher_items}:
            raise LimbeckError(
                f"the teacher {name!r} shares {kind} with the student, which would freeze with it: give "
                "copy.deepcopy(teacher)"
            )
