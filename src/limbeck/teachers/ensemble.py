"""Ensembles of teachers: the outputs of several teachers combined into one.

Weights have the shape ``[teachers, rows]``: zero where a teacher has no output for the row, and 1 in sum over the
others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.data.counter_rng import make_generator
from limbeck.losses import cross_entropy_loss
from limbeck.losses._ops import upcast
from limbeck.teachers.ensemble_weights import (
    average_logits,
    average_probabilities,
    cross_entropy_weights,
    entropy_weights,
    inverse_entropy_weights,
    normalize_weights,
    require_positive_temperature,
    require_positive_weights,
)
from limbeck.teachers.teacher_logits import TeacherLogits, stack_teacher_logits

__all__ = [
    "ConfidenceWeighted",
    "EnsembleMethod",
    "LearnedWeights",
    "MeanLogits",
    "MeanProbabilities",
    "RandomTeacher",
    "combine_teachers",
    "resolve_ensemble",
]

TeacherWeights = Mapping[str, float] | None
_TEACHER_DRAW_STREAM: Final = 7


@runtime_checkable
class EnsembleMethod(Protocol):
    """Combines the logits of several teachers.

    A class with ``allows_single_teacher = True`` may be the ensemble of a recipe that has one teacher. One with
    ``needs_target = True`` reads ``target``, and combines spatial logits only where there is a target for each
    position. One with ``uses_softmax = True`` is refused for heads with a sigmoid for each class. The optional method
    ``row_weights(stacked) -> [teachers, rows]`` gives the weights by which tensors by row are averaged.
    """

    def combine(self, stacked: TeacherLogits) -> Tensor:
        """Combined logits ``[rows, classes]``; rows without a valid teacher hold any value."""
        ...


def combine_teachers(
    teachers: Mapping[str, Outputs], *, ensemble: EnsembleMethod | str = "mean_logits", target: Tensor | None = None,
    spatial_target: Tensor | None = None, progress: Progress = Progress(),
) -> Outputs | None:  # fmt: skip
    """The ensemble of ``teachers``; the outputs of the only teacher, or ``None`` without teachers or logits.

    Args:
        teachers: outputs by name.
        ensemble: ``mean_logits``, ``mean_probabilities``, or an :class:`EnsembleMethod`.
        target: target by row, for methods that use it.
        spatial_target: ``[batch, height, width]`` class indices (-100: no label) on the grid of the spatial logits, for
            methods that use a target.
        progress: progress of the training, for methods that use it.

    Logits and spatial logits are combined, and floating-point tensors ``by_row`` are averaged with the same weights;
    features, embeddings and tensors by sample are not, so a loss on them needs ``teacher``. A sample that some teachers
    skip is the ensemble of the others; one that all skip is not ``valid`` and enters no loss.

    Raises:
        UnequalLogitsError: logits of different shapes.
        LimbeckError: unknown ensemble, or rows of different samples.

    >>> a, b = Outputs(logits=torch.tensor([[0.0, 2.0]])), Outputs(logits=torch.tensor([[0.0, 4.0]]))
    >>> combine_teachers({"a": a, "b": b}).require_logits()
    tensor([[0., 3.]])
    >>> combine_teachers({"a": a, "b": b}, ensemble=MeanLogits({"a": 3.0})).require_logits()
    tensor([[0.0000, 2.5000]])
    """
    method = resolve_ensemble(ensemble)
    if len(teachers) < 2:
        return next(iter(teachers.values()), None)
    stacked = stack_teacher_logits(teachers, target=target, progress=progress)
    if stacked is None:
        return None
    masks = [outputs.valid for outputs in teachers.values() if outputs.valid is not None]
    any_valid = torch.stack(masks).any(dim=0) if len(masks) == len(teachers) else None
    first = next(iter(teachers.values()))
    return Outputs(
        logits=method.combine(stacked),
        spatial_logits=_combine_spatial_logits(teachers, method, spatial_target, progress),
        by_row=_combine_by_row(teachers, method, stacked), row_to_sample=first.row_to_sample, valid=any_valid,
    )  # fmt: skip


def resolve_ensemble(ensemble: EnsembleMethod | str) -> EnsembleMethod:
    """``ensemble`` as an object; a name gives one with default settings.

    >>> resolve_ensemble("mean_probabilities")
    MeanProbabilities(weights=None, temperature=1.0)
    """
    if isinstance(ensemble, str) and ensemble in _METHODS:
        return _METHODS[ensemble]()
    if isinstance(ensemble, str | type) or not isinstance(ensemble, EnsembleMethod):
        raise LimbeckError(
            f"ensemble must be {', '.join(_METHODS)} or an object such as MeanProbabilities(), got {ensemble!r}"
        )
    return ensemble


@final
@dataclass(frozen=True, slots=True)
class MeanLogits:
    """Weighted mean of logits, a geometric mean of the distributions.

    Args:
        weights: positive weights by teacher name; 1 for teachers that are not named.
    """

    allows_single_teacher: ClassVar = True
    weights: TeacherWeights = None

    def __post_init__(self) -> None:
        require_positive_weights(self.weights)

    def row_weights(self, stacked: TeacherLogits) -> Tensor:
        return normalize_weights(_teacher_weights(self.weights, stacked), stacked.valid)

    def combine(self, stacked: TeacherLogits) -> Tensor:
        return average_logits(stacked.logits, self.row_weights(stacked))


@final
@dataclass(frozen=True, slots=True)
class MeanProbabilities:
    """Weighted mean of probabilities, as its logarithm.

    Args:
        weights: positive weights by teacher name; 1 for teachers that are not named.
        temperature: temperature of the averaged probabilities. With the temperature of the loss, the target is the mean
            of the softened distributions.
    """

    uses_softmax: ClassVar = True
    weights: TeacherWeights = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_positive_weights(self.weights)
        require_positive_temperature(self.temperature)

    def row_weights(self, stacked: TeacherLogits) -> Tensor:
        return normalize_weights(_teacher_weights(self.weights, stacked), stacked.valid)

    def combine(self, stacked: TeacherLogits) -> Tensor:
        return average_probabilities(stacked.logits, self.row_weights(stacked), temperature=self.temperature)


@final
@dataclass(frozen=True, slots=True)
class ConfidenceWeighted:
    """Mean of probabilities with larger weights for more reliable teachers, row by row.

    Rows of :class:`~limbeck.tasks.Segmentation` are pixels, so its weights differ from pixel to pixel.

    Args:
        criterion: ``entropy`` (:func:`entropy_weights`), ``inverse_entropy`` (:func:`inverse_entropy_weights`, which
            differ more) or ``cross_entropy`` (CA-MKD, :func:`cross_entropy_weights`).
        temperature: as in :class:`MeanProbabilities`. With the temperature of the loss, ``cross_entropy`` is the loss
            of the paper up to the entropy of the teachers, which has no gradient.
    """

    uses_softmax: ClassVar = True
    criterion: Literal["entropy", "inverse_entropy", "cross_entropy"] = "entropy"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.criterion not in ("entropy", "inverse_entropy", "cross_entropy"):
            raise LimbeckError(
                f"criterion must be entropy, inverse_entropy or cross_entropy, got {self.criterion!r}: choose one"
            )
        require_positive_temperature(self.temperature)

    @property
    def needs_target(self) -> bool:
        """Whether it reads the target."""
        return self.criterion == "cross_entropy"

    def row_weights(self, stacked: TeacherLogits) -> Tensor:
        if self.criterion == "entropy":
            return entropy_weights(stacked.logits, stacked.valid)
        if self.criterion == "inverse_entropy":
            return inverse_entropy_weights(stacked.logits, stacked.valid)
        if stacked.target is None:
            raise LimbeckError(
                "ConfidenceWeighted(criterion='cross_entropy') needs a target, and the batch has none: set "
                "criterion='entropy'"
            )
        return cross_entropy_weights(stacked.logits, stacked.target, stacked.valid)

    def combine(self, stacked: TeacherLogits) -> Tensor:
        return average_probabilities(stacked.logits, self.row_weights(stacked), temperature=self.temperature)


@final
@dataclass(frozen=True, slots=True)
class RandomTeacher:
    """One teacher drawn at random in each step, equal in all processes; a row that it skips goes to the next one drawn.

    Fukuda et al., *Efficient Knowledge Distillation from an Ensemble of Teachers* (Interspeech 2017,
    https://doi.org/10.21437/Interspeech.2017-614).

    Args:
        weights: positive sampling weights by teacher name; 1 for teachers that are not named.
        seed: seed of the draws.
    """

    weights: TeacherWeights = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive_weights(self.weights)

    def row_weights(self, stacked: TeacherLogits) -> Tensor:
        step = stacked.progress.steps_before + stacked.progress.step
        probability = _teacher_weights(self.weights, stacked).double().cpu()
        generator = make_generator(self.seed, _TEACHER_DRAW_STREAM, step)
        # Exponential race: the order of arrival is a weighted draw without replacement.
        arrival_time = -torch.rand(len(probability), generator=generator, dtype=torch.float64).log()
        order = (arrival_time / probability).argsort().to(stacked.logits.device)
        first_valid = order[stacked.valid[order].long().argmax(dim=0)]
        return torch.zeros_like(stacked.logits[..., 0]).scatter(0, first_valid[None], 1.0) * stacked.valid

    def combine(self, stacked: TeacherLogits) -> Tensor:
        return average_logits(stacked.logits, self.row_weights(stacked))


@final
class LearnedWeights(nn.Module):
    """Mean of probabilities with weights that minimize the cross-entropy of the ensemble with the target.

    The distiller adds it to the objective as a loss named ``ensemble`` (the logarithmic score of a linear pool;
    Genest & Zidek, 1986, https://doi.org/10.1214/ss/1177013825), whose gradient reaches the weights only. The weights
    are the softmax of one parameter for each teacher, and start equal. On samples that a teacher was trained on, it is
    more confident, which favors a teacher that has memorized them.
    """

    uses_softmax: ClassVar = True

    def __init__(self) -> None:
        super().__init__()
        self.scores: nn.Parameter | None = None

    def prepare(self, context: LossContext) -> None:
        """Create one parameter for each teacher."""
        logits = next(outputs.require_logits() for outputs in context.teachers.values())
        self.scores = nn.Parameter(torch.zeros(len(context.teachers), device=logits.device))

    def row_weights(self, stacked: TeacherLogits) -> Tensor:
        """The current weights of the valid teachers of each row, without gradients."""
        return self._row_weights(stacked).detach()

    def combine(self, stacked: TeacherLogits) -> Tensor:
        return self._combine(stacked).detach()

    def forward(self, context: LossContext) -> Tensor:
        """Cross-entropy of the ensemble with the target, over labeled rows with a valid teacher."""
        stacked, target = stack_teacher_logits(context.teachers), context.require_target()
        assert stacked is not None
        is_valid = stacked.valid.any(dim=0)
        valid_rows = stacked._replace(logits=stacked.logits[:, is_valid], valid=stacked.valid[:, is_valid])
        return cross_entropy_loss(self._combine(valid_rows), target[is_valid])

    def weights(self) -> list[float]:
        """The current weight of each teacher."""
        return [] if self.scores is None else F.softmax(self.scores.detach().float(), dim=0).tolist()

    def _combine(self, stacked: TeacherLogits) -> Tensor:
        return average_probabilities(stacked.logits, self._row_weights(stacked))

    def _row_weights(self, stacked: TeacherLogits) -> Tensor:
        scores = stacked.logits.new_zeros(len(stacked.names)) if self.scores is None else self.scores.to(stacked.logits)
        return normalize_weights(F.softmax(scores, dim=0), stacked.valid)


_METHODS: Final[Mapping[str, type[MeanLogits | MeanProbabilities]]] = {
    "mean_logits": MeanLogits, "mean_probabilities": MeanProbabilities,
}  # fmt: skip


def _combine_spatial_logits(
    teachers: Mapping[str, Outputs], method: EnsembleMethod, target: Tensor | None, progress: Progress
) -> Tensor | None:
    """``[batch, classes, height, width]``, position by position; ``None`` where a teacher has others or none, or the
    method needs a target and ``target`` is none of these positions.
    """
    maps = [outputs.spatial_logits for outputs in teachers.values() if outputs.spatial_logits is not None]
    if len(maps) < len(teachers) or len({tensor.shape for tensor in maps}) > 1:
        return None
    batch_size, classes, *size = maps[0].shape
    has_target = target is not None and target.shape == (batch_size, *size)
    if getattr(method, "needs_target", False) and not has_target:
        return None
    num_positions = math.prod(size)
    logits = torch.stack([upcast(tensor).flatten(2).mT.reshape(-1, classes) for tensor in maps])
    masks = [outputs.valid for outputs in teachers.values()]
    ones = torch.ones(batch_size, dtype=torch.bool, device=logits.device)
    valid = torch.stack([ones if mask is None else mask for mask in masks]).repeat_interleave(num_positions, dim=1)
    logits = logits.masked_fill(~valid.unsqueeze(2), 0.0)
    position_target = target.flatten() if target is not None and has_target else None
    combined = method.combine(TeacherLogits(tuple(teachers), logits, valid, position_target, progress))
    return combined.reshape(batch_size, num_positions, classes).mT.reshape(batch_size, classes, *size)


def _combine_by_row(
    teachers: Mapping[str, Outputs], method: EnsembleMethod, stacked: TeacherLogits
) -> dict[str, Tensor]:
    """Weighted means of the floating-point tensors by row that all teachers have."""
    outputs, row_weights = list(teachers.values()), getattr(method, "row_weights", None)
    names = [name for name in outputs[0].by_row if all(name in other.by_row for other in outputs)]
    if row_weights is None or not names:
        return {}
    weights, combined = row_weights(stacked), {}
    for name in names:
        tensors = [upcast(other.by_row[name]) for other in outputs]
        if tensors[0].is_floating_point() and len({tensor.shape for tensor in tensors}) == 1:
            values = torch.stack(tensors)
            weight = weights.reshape(*weights.shape, *[1] * (values.ndim - 2))
            combined[name] = (values * weight).masked_fill(weight == 0, 0.0).sum(dim=0)
    return combined


def _teacher_weights(weights: TeacherWeights, stacked: TeacherLogits) -> Tensor:
    """``[teachers]`` weights, 1 for teachers that are not named."""
    for name in weights or {}:
        if name not in stacked.names:
            names = suggest_names(name, stacked.names)
            raise LimbeckError(f"the ensemble has a weight for {name!r}, which is no teacher; available: {names}")
    return stacked.logits.new_tensor([float((weights or {}).get(name, 1.0)) for name in stacked.names])
