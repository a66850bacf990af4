"""The ways in which several teachers speak together. A recipe names one: ``ensemble: {use: ConfidenceWeighted}``.

Averaging logits and averaging probabilities are different ensembles: the first is a geometric mean of the teachers'
distributions, the second an arithmetic one (what an ensemble's vote is). Both are here, by name. Each way is an object
that turns :class:`~limbeck.teachers.voices.TeacherLogits` into logits ``[rows, classes]``; the arithmetic stands in
:mod:`limbeck.teachers.weighting`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.data.counter_rng import make_generator
from limbeck.losses import cross_entropy_loss
from limbeck.teachers.voices import TeacherLogits, stack_teacher_logits, teacher_weights
from limbeck.teachers.weighting import (
    average_logits,
    average_probabilities,
    cross_entropy_weights,
    entropy_weights,
    first_valid_weights,
    normalize_weights,
)

__all__ = ["ConfidenceWeighted", "EnsembleMethod", "LearnedWeights", "MeanLogits", "MeanProbabilities", "RandomTeacher"]

TeacherWeights = Mapping[str, float] | None
_TEACHER_DRAW_STREAM: Final = 7


@runtime_checkable
class EnsembleMethod(Protocol):
    """A way in which several teachers speak together."""

    def combine(self, stacked: TeacherLogits) -> Tensor:
        """Their common logits, ``[rows, classes]``; rows that nobody answered hold anything."""
        ...


@final
@dataclass(frozen=True, slots=True)
class MeanLogits:
    """The mean of logits.

    Arguments:
        weights: above zero, by teacher; 1 for one that is not named.
    """

    weights: TeacherWeights = None

    def __post_init__(self) -> None:
        _check_weights(self.weights)

    def combine(self, stacked: TeacherLogits) -> Tensor:
        return average_logits(stacked.logits, normalize_weights(teacher_weights(self.weights, stacked), stacked.valid))


@final
@dataclass(frozen=True, slots=True)
class MeanProbabilities:
    """The mean of probabilities, as its logarithm: what an ensemble answers.

    Arguments:
        weights: above zero, by teacher; 1 for one that is not named.
        temperature: at which temperature the probabilities are; the combination is then ``temperature`` times the logarithm of their
            mean, so that a term of the same ``temperature`` meets the mean of the softened answers.
    """

    weights: TeacherWeights = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_weights(self.weights)
        _check_temperature(self.temperature)

    def combine(self, stacked: TeacherLogits) -> Tensor:
        weight = normalize_weights(teacher_weights(self.weights, stacked), stacked.valid)
        return average_probabilities(stacked.logits, weight, temperature=self.temperature)


@final
@dataclass(frozen=True, slots=True)
class ConfidenceWeighted:
    """The mean of probabilities, row by row more of whoever can be trusted.

    Arguments:
        criterion: ``entropy``, how sure a teacher is (:func:`~limbeck.teachers.weighting.entropy_weights`), or ``cross_entropy``,
            how near it is to the label (CA-MKD, :func:`~limbeck.teachers.weighting.cross_entropy_weights`).
        temperature: as in :class:`MeanProbabilities`; with that of the term, ``cross_entropy`` is the paper's loss up to the
            entropy of the teachers, which has no gradient.
    """

    criterion: Literal["entropy", "cross_entropy"] = "entropy"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.criterion not in ("entropy", "cross_entropy"):
            raise LimbeckError(f"confidence goes by entropy or cross_entropy, not by {self.criterion!r}")
        _check_temperature(self.temperature)

    def combine(self, stacked: TeacherLogits) -> Tensor:
        if self.criterion == "entropy":
            weight = entropy_weights(stacked.logits, stacked.valid)
        elif stacked.target is None:
            raise LimbeckError(
                "confidence by cross_entropy compares teachers with the truth, and the batch carries none: give "
                "labels, or set criterion: entropy"
            )
        else:
            weight = cross_entropy_weights(stacked.logits, stacked.target, stacked.valid)
        return average_probabilities(stacked.logits, weight, temperature=self.temperature)


@final
@dataclass(frozen=True, slots=True)
class RandomTeacher:
    """At each step one teacher, drawn anew; a row that it did not answer goes to the next one drawn.

    It is a function of the seed and the step, so a training that was resumed draws the same, as do several processes.
    Fukuda et al., *Efficient Knowledge Distillation from an Ensemble of Teachers* (Interspeech 2017,
    https://doi.org/10.21437/Interspeech.2017-614), switch teachers in this way.

    Arguments:
        weights: how likely each is to be drawn, relative to 1 for one that is not named; above zero.
        seed: of the draws.
    """

    weights: TeacherWeights = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_weights(self.weights)

    def combine(self, stacked: TeacherLogits) -> Tensor:
        step = stacked.progress.steps_before + stacked.progress.step
        probability = teacher_weights(self.weights, stacked).double().cpu()
        # Exponential races: the order of arrival is a draw by weight without putting back.
        arrival_time = -torch.rand(
            len(probability), generator=make_generator(self.seed, _TEACHER_DRAW_STREAM, step), dtype=torch.float64
        ).log()
        order = (arrival_time / probability).argsort().to(stacked.logits.device)
        return average_logits(stacked.logits, first_valid_weights(order, stacked.valid).to(stacked.logits))


@final
class LearnedWeights(nn.Module):
    """The mean of probabilities by weights that are learned: those under which the teachers together know the labels.

    It is a term as well, which the distiller adds to the objective under the name ``ensemble``: the cross-entropy of
    the teachers' mean with the truth (the logarithmic score of a linear pool; Genest & Zidek, 1986,
    https://doi.org/10.1214/ss/1177013825). Its gradient reaches the weights only, so the student learns from the
    combination as it is. Weights that followed the student's own loss would move to whichever teacher is easiest to
    imitate. They begin equal, and are the softmax of one number for each teacher, trained by the student's optimizer.

    On pictures that a teacher was trained on it is surer than on others: of teachers that were trained alike that
    favours the one that knows them by heart.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scores: nn.Parameter | None = None

    def prepare(self, context: LossContext) -> None:
        """One number for each teacher."""
        logits = next(outputs.require_logits() for outputs in context.teachers.values())
        self.scores = nn.Parameter(torch.zeros(len(context.teachers), device=logits.device))

    def combine(self, stacked: TeacherLogits) -> Tensor:
        return self._combine(stacked).detach()

    def forward(self, context: LossContext) -> Tensor:
        """The cross-entropy of the common answer with the truth, over the labelled rows that somebody answered."""
        stacked, target = stack_teacher_logits(context.teachers), context.require_target()
        assert stacked is not None
        has_teacher = stacked.valid.any(dim=0)
        answered = stacked._replace(logits=stacked.logits[:, has_teacher], valid=stacked.valid[:, has_teacher])
        return cross_entropy_loss(self._combine(answered), target[has_teacher])

    def weights(self) -> list[float]:
        """What each teacher weighs now."""
        return [] if self.scores is None else F.softmax(self.scores.detach().float(), dim=0).tolist()

    def _combine(self, stacked: TeacherLogits) -> Tensor:
        scores = stacked.logits.new_zeros(len(stacked.names)) if self.scores is None else self.scores.to(stacked.logits)
        return average_probabilities(stacked.logits, normalize_weights(F.softmax(scores, dim=0), stacked.valid))


def _check_weights(weights: TeacherWeights) -> None:
    for name, weight in (weights or {}).items():
        if not 0 < weight < math.inf:
            raise LimbeckError(
                f"a teacher's weight is a number above zero, and that of {name!r} is {weight}: leave out a teacher "
                "that is not to be heard"
            )


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise LimbeckError(f"a temperature is a number above zero, not {temperature}")
