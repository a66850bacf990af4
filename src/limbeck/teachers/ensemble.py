"""Ensembles of teachers: the outputs of several teachers combined into one.

Weights have the shape ``[teachers, rows]``: zero where a teacher has no output for the row, and 1 in sum over the
others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, NamedTuple, Protocol, final, runtime_checkable

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


class TeacherLogits(NamedTuple):
    """The logits of several teachers for the same rows.

    Attributes:
        names: names of the teachers.
        logits: ``[teachers, rows, classes]``, at least float32; zeros where a teacher has no output.
        valid: ``[teachers, rows]`` booleans, false where a teacher has no output.
        target: target by row, as in :class:`~limbeck.core.loss_context.LossContext`, or ``None``.
        progress: progress of the training.
    """

    names: tuple[str, ...]
    logits: Tensor
    valid: Tensor
    target: Tensor | None
    progress: Progress


@runtime_checkable
class EnsembleMethod(Protocol):
    """Combines the logits of several teachers.

    A class with ``allows_single_teacher = True`` may be the ensemble of a recipe that has one teacher.
    """

    def combine(self, stacked: TeacherLogits) -> Tensor:
        """Combined logits ``[rows, classes]``; rows without a valid teacher hold any value."""
        ...


def combine_teachers(
    teachers: Mapping[str, Outputs], *, ensemble: EnsembleMethod | str = "mean_logits", target: Tensor | None = None,
    progress: Progress = Progress(),
) -> Outputs | None:  # fmt: skip
    """The ensemble of ``teachers``; the outputs of the only teacher, or ``None`` without teachers or logits.

    Args:
        teachers: outputs by name.
        ensemble: ``mean_logits``, ``mean_probabilities``, or an :class:`EnsembleMethod`.
        target: target by row, for methods that use it.
        progress: progress of the training, for methods that use it.

    Only logits are combined. A sample that some teachers skip is the ensemble of the others; one that all skip is not
    ``valid`` and enters no loss.

    Raises:
        LimbeckError: unknown ensemble, or logits of different shapes or samples.

    >>> a, b = Outputs(logits=torch.tensor([[0.0, 2.0]])), Outputs(logits=torch.tensor([[0.0, 4.0]]))
    >>> combine_teachers({"a": a, "b": b}).require_logits()
    tensor([[0., 3.]])
    >>> combine_teachers({"a": a, "b": b}, ensemble=MeanLogits({"a": 3.0})).require_logits()
    tensor([[0.0000, 2.5000]])
    """
    method = resolve_ensemble(ensemble)
    if len(teachers) < 2:
        return next(iter(teachers.values()), None)
    stacked = _stack_teacher_logits(teachers, target=target, progress=progress)
    if stacked is None:
        return None
    masks = [outputs.valid for outputs in teachers.values() if outputs.valid is not None]
    any_valid = torch.stack(masks).any(dim=0) if len(masks) == len(teachers) else None
    first = next(iter(teachers.values()))
    return Outputs(logits=method.combine(stacked), row_to_sample=first.row_to_sample, valid=any_valid)


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


def normalize_weights(weights: Tensor, valid: Tensor) -> Tensor:
    """``weights`` ``[teachers]`` above zero as shares of the valid teachers of each row, ``[teachers, rows]``.

    >>> normalize_weights(torch.tensor([3.0, 1.0]), torch.tensor([[True, False], [True, True]]))
    tensor([[0.7500, 0.0000],
            [0.2500, 1.0000]])
    """
    weighted = weights[:, None] * valid
    return weighted / weighted.sum(dim=0).clamp(min=torch.finfo(weights.dtype).tiny)


def entropy_weights(logits: Tensor, valid: Tensor) -> Tensor:
    """(1 − exp H_k / Σ_j exp H_j) / (K − 1) with the entropy H_k of teacher k, over the K valid teachers of a row.

    Kwon et al., *Adaptive Knowledge Distillation Based on Entropy* (ICASSP 2020,
    https://doi.org/10.1109/ICASSP40776.2020.9054698). A confident wrong teacher gets the most weight.

    >>> uniform, confident = torch.tensor([[0.0, 0.0]]), torch.tensor([[9.0, -9.0]])
    >>> entropy_weights(torch.stack([uniform, confident]), torch.ones(2, 1, dtype=torch.bool)).T
    tensor([[0.3333, 0.6667]])
    """
    return _inverse_softmax_weights(torch.special.entr(F.softmax(logits, dim=2)).sum(dim=2), valid)


def cross_entropy_weights(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Like :func:`entropy_weights`, with the cross-entropy of each prediction with the target.

    CA-MKD: Zhang, Chen & Wang, *Confidence-Aware Multi-Teacher Knowledge Distillation* (ICASSP 2022,
    https://arxiv.org/abs/2201.00007). ``target`` is class indices ``[rows]`` (−100: no label) or probabilities
    ``[rows, classes]`` (all zero: no label). Rows without a label get equal weights.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[1.0986123, 0.0]]])  # probability of the target: 1/2 and 3/4
    >>> cross_entropy_weights(logits, torch.tensor([0]), torch.ones(2, 1, dtype=torch.bool)).T
    tensor([[0.4000, 0.6000]])
    """
    log_p = F.log_softmax(logits, dim=2)
    if target.ndim == 2:
        target_probabilities = target.to(logits)
    else:
        is_labeled = target >= 0
        target_probabilities = F.one_hot(target.where(is_labeled, 0), logits.shape[2]).to(logits) * is_labeled[:, None]
    # A class of logit −inf that is not the target costs 0, not 0 · inf.
    loss = -(target_probabilities * log_p.masked_fill((target_probabilities == 0).expand_as(log_p), 0.0)).sum(dim=2)
    return _inverse_softmax_weights(loss.clamp(max=torch.finfo(logits.dtype).max), valid)


def average_logits(logits: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of logits ``[teachers, rows, classes]``, ``[rows, classes]``."""
    # Weight 0 times a logit of −inf is 0, not NaN.
    return (logits * weight.unsqueeze(2)).masked_fill((weight == 0).unsqueeze(2), 0.0).sum(dim=0)


def average_probabilities(logits: Tensor, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``temperature`` · log of the weighted mean of the probabilities at ``temperature``, ``[rows, classes]``.

    >>> average_probabilities(torch.tensor([[[1.0986123, 0.0]], [[0.0, 0.0]]]), torch.full((2, 1), 0.5)).exp()
    tensor([[0.6250, 0.3750]])
    """
    is_zero = weight == 0
    # The gradient of log(0) would be NaN for learned weights.
    log_weight = weight.masked_fill(is_zero, 1.0).log().masked_fill(is_zero, -torch.inf)
    return temperature * torch.logsumexp(F.log_softmax(logits / temperature, dim=2) + log_weight.unsqueeze(2), dim=0)


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
        _check_weights(self.weights)

    def combine(self, stacked: TeacherLogits) -> Tensor:
        return average_logits(stacked.logits, normalize_weights(_teacher_weights(self.weights, stacked), stacked.valid))


@final
@dataclass(frozen=True, slots=True)
class MeanProbabilities:
    """Weighted mean of probabilities, as its logarithm.

    Args:
        weights: positive weights by teacher name; 1 for teachers that are not named.
        temperature: temperature of the averaged probabilities. With the temperature of the loss, the target is the mean
            of the softened distributions.
    """

    weights: TeacherWeights = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_weights(self.weights)
        _check_temperature(self.temperature)

    def combine(self, stacked: TeacherLogits) -> Tensor:
        weight = normalize_weights(_teacher_weights(self.weights, stacked), stacked.valid)
        return average_probabilities(stacked.logits, weight, temperature=self.temperature)


@final
@dataclass(frozen=True, slots=True)
class ConfidenceWeighted:
    """Mean of probabilities with larger weights for more reliable teachers, row by row.

    Args:
        criterion: ``entropy`` (:func:`entropy_weights`) or ``cross_entropy`` (CA-MKD, :func:`cross_entropy_weights`).
        temperature: as in :class:`MeanProbabilities`. With the temperature of the loss, ``cross_entropy`` is the loss
            of the paper up to the entropy of the teachers, which has no gradient.
    """

    criterion: Literal["entropy", "cross_entropy"] = "entropy"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.criterion not in ("entropy", "cross_entropy"):
            raise LimbeckError(f"criterion must be entropy or cross_entropy, got {self.criterion!r}")
        _check_temperature(self.temperature)

    def combine(self, stacked: TeacherLogits) -> Tensor:
        if self.criterion == "entropy":
            weight = entropy_weights(stacked.logits, stacked.valid)
        elif stacked.target is None:
            raise LimbeckError(
                "ConfidenceWeighted(criterion='cross_entropy') needs a target, and the batch has none: set "
                "criterion='entropy'"
            )
        else:
            weight = cross_entropy_weights(stacked.logits, stacked.target, stacked.valid)
        return average_probabilities(stacked.logits, weight, temperature=self.temperature)


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
        _check_weights(self.weights)

    def combine(self, stacked: TeacherLogits) -> Tensor:
        step = stacked.progress.steps_before + stacked.progress.step
        probability = _teacher_weights(self.weights, stacked).double().cpu()
        generator = make_generator(self.seed, _TEACHER_DRAW_STREAM, step)
        # Exponential race: the order of arrival is a weighted draw without replacement.
        arrival_time = -torch.rand(len(probability), generator=generator, dtype=torch.float64).log()
        order = (arrival_time / probability).argsort().to(stacked.logits.device)
        first_valid = order[stacked.valid[order].long().argmax(dim=0)]
        weight = torch.zeros_like(stacked.logits[..., 0]).scatter(0, first_valid[None], 1.0) * stacked.valid
        return average_logits(stacked.logits, weight)


@final
class LearnedWeights(nn.Module):
    """Mean of probabilities with weights that minimize the cross-entropy of the ensemble with the target.

    The distiller adds it to the objective as a loss named ``ensemble`` (the logarithmic score of a linear pool;
    Genest & Zidek, 1986, https://doi.org/10.1214/ss/1177013825), whose gradient reaches the weights only. The weights
    are the softmax of one parameter for each teacher, and start equal. On samples that a teacher was trained on, it is
    more confident, which favors a teacher that has memorized them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scores: nn.Parameter | None = None

    def prepare(self, context: LossContext) -> None:
        """Create one parameter for each teacher."""
        logits = next(outputs.require_logits() for outputs in context.teachers.values())
        self.scores = nn.Parameter(torch.zeros(len(context.teachers), device=logits.device))

    def combine(self, stacked: TeacherLogits) -> Tensor:
        return self._combine(stacked).detach()

    def forward(self, context: LossContext) -> Tensor:
        """Cross-entropy of the ensemble with the target, over labeled rows with a valid teacher."""
        stacked, target = _stack_teacher_logits(context.teachers), context.require_target()
        assert stacked is not None
        is_valid = stacked.valid.any(dim=0)
        valid_rows = stacked._replace(logits=stacked.logits[:, is_valid], valid=stacked.valid[:, is_valid])
        return cross_entropy_loss(self._combine(valid_rows), target[is_valid])

    def weights(self) -> list[float]:
        """The current weight of each teacher."""
        return [] if self.scores is None else F.softmax(self.scores.detach().float(), dim=0).tolist()

    def _combine(self, stacked: TeacherLogits) -> Tensor:
        scores = stacked.logits.new_zeros(len(stacked.names)) if self.scores is None else self.scores.to(stacked.logits)
        return average_probabilities(stacked.logits, normalize_weights(F.softmax(scores, dim=0), stacked.valid))


_METHODS: Final[Mapping[str, type[MeanLogits | MeanProbabilities]]] = {
    "mean_logits": MeanLogits, "mean_probabilities": MeanProbabilities,
}  # fmt: skip


def _stack_teacher_logits(
    teachers: Mapping[str, Outputs], *, target: Tensor | None = None, progress: Progress = Progress()
) -> TeacherLogits | None:
    """The logits of ``teachers`` stacked, or ``None`` where a teacher has none."""
    outputs = list(teachers.values())
    if any(output.logits is None for output in outputs):
        return None
    shapes = {name: list(output.require_logits().shape) for name, output in teachers.items()}
    if any(shape != shapes[next(iter(shapes))] for shape in shapes.values()):
        raise LimbeckError(f"logits of an ensemble must have one shape, got {shapes}: set `teacher` of each loss")
    if not all(_same_samples(output.row_to_sample, outputs[0].row_to_sample) for output in outputs):
        raise LimbeckError(
            f"rows of an ensemble must belong to the same samples, and those of {', '.join(teachers)} do not: set "
            "`teacher` of each loss"
        )
    logits = torch.stack([upcast(output.require_logits()) for output in outputs])
    valid = torch.stack([_valid_rows(output) for output in outputs])
    if any(output.valid is not None for output in outputs):
        logits = logits.masked_fill(~valid.unsqueeze(2), 0.0)  # 0 · NaN would reach the mean
    return TeacherLogits(tuple(teachers), logits, valid, target, progress)


def _teacher_weights(weights: TeacherWeights, stacked: TeacherLogits) -> Tensor:
    """``[teachers]`` weights, 1 for teachers that are not named."""
    for name in weights or {}:
        if name not in stacked.names:
            names = suggest_names(name, stacked.names)
            raise LimbeckError(f"the ensemble has a weight for {name!r}, which is no teacher; available: {names}")
    return stacked.logits.new_tensor([float((weights or {}).get(name, 1.0)) for name in stacked.names])


def _inverse_softmax_weights(loss: Tensor, valid: Tensor) -> Tensor:
    num_valid = valid.sum(dim=0)
    fraction = F.softmax(loss.masked_fill(~valid, -torch.inf), dim=0)
    weight = ((1 - fraction) / (num_valid - 1).clamp(min=1)).where(num_valid > 1, 1.0)
    return weight.masked_fill(~valid, 0.0)


def _valid_rows(outputs: Outputs) -> Tensor:
    logits = outputs.require_logits()
    if outputs.valid is None:
        return torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    return outputs.valid if outputs.row_to_sample is None else outputs.valid[outputs.row_to_sample]


def _same_samples(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _check_weights(weights: TeacherWeights) -> None:
    for name, weight in (weights or {}).items():
        if not 0 < weight < math.inf:
            raise LimbeckError(f"the weight of teacher {name!r} must be above 0, got {weight}; remove the teacher")


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise LimbeckError(f"temperature must be above 0, got {temperature}")
