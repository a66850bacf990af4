"""The ways in which several teachers speak together. A recipe names one: ``combination: {use: Confidence}``.

Averaging logits and averaging probabilities are different ensembles: the first is a geometric mean of the teachers'
distributions, the second an arithmetic one (what an ensemble's vote is). Both are here, by name. Each way is an object
that turns :class:`~limbeck.teachers.voices.Voices` into logits ``[rows, classes]``; the arithmetic stands in
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
from limbeck.core.loss_context import Exchange
from limbeck.data.counter_rng import generator
from limbeck.losses import cross_entropy
from limbeck.teachers.voices import Voices, heard_together, shares
from limbeck.teachers.weighting import (
    by_cross_entropy,
    by_draw,
    by_entropy,
    by_share,
    pooled_logits,
    pooled_probabilities,
)

__all__ = ["Combination", "Confidence", "Learned", "MeanLogits", "MeanProbabilities", "Random"]

Weights = Mapping[str, float] | None
_DRAW: Final = 7


@runtime_checkable
class Combination(Protocol):
    """A way in which several teachers speak together."""

    def voice(self, voices: Voices) -> Tensor:
        """Their common logits, ``[rows, classes]``; rows that nobody answered hold anything."""
        ...


@final
@dataclass(frozen=True, slots=True)
class MeanLogits:
    """The mean of logits.

    Arguments:
        weights: above zero, by teacher; 1 for one that is not named.
    """

    weights: Weights = None

    def __post_init__(self) -> None:
        _require_weights(self.weights)

    def voice(self, voices: Voices) -> Tensor:
        return pooled_logits(voices.rows, by_share(shares(self.weights, voices), voices.here))


@final
@dataclass(frozen=True, slots=True)
class MeanProbabilities:
    """The mean of probabilities, as its logarithm: what an ensemble answers.

    Arguments:
        weights: above zero, by teacher; 1 for one that is not named.
        tau: at which temperature the probabilities are; the combination is then ``tau`` times the logarithm of their
            mean, so that a term of the same ``tau`` meets the mean of the softened answers.
    """

    weights: Weights = None
    tau: float = 1.0

    def __post_init__(self) -> None:
        _require_weights(self.weights)
        _require_tau(self.tau)

    def voice(self, voices: Voices) -> Tensor:
        weight = by_share(shares(self.weights, voices), voices.here)
        return pooled_probabilities(voices.rows, weight, tau=self.tau)


@final
@dataclass(frozen=True, slots=True)
class Confidence:
    """The mean of probabilities, row by row more of whoever can be trusted.

    Arguments:
        by: ``entropy``, how sure a teacher is (:func:`~limbeck.teachers.weighting.by_entropy`), or ``cross_entropy``,
            how near it is to the label (CA-MKD, :func:`~limbeck.teachers.weighting.by_cross_entropy`).
        tau: as in :class:`MeanProbabilities`; with that of the term, ``cross_entropy`` is the paper's loss up to the
            entropy of the teachers, which has no gradient.
    """

    by: Literal["entropy", "cross_entropy"] = "entropy"
    tau: float = 1.0

    def __post_init__(self) -> None:
        if self.by not in ("entropy", "cross_entropy"):
            raise LimbeckError(f"confidence goes by entropy or cross_entropy, not by {self.by!r}")
        _require_tau(self.tau)

    def voice(self, voices: Voices) -> Tensor:
        if self.by == "entropy":
            weight = by_entropy(voices.rows, voices.here)
        elif voices.target is None:
            raise LimbeckError(
                "confidence by cross_entropy compares teachers with the truth, and the batch carries none: give "
                "labels, or set by: entropy"
            )
        else:
            weight = by_cross_entropy(voices.rows, voices.target, voices.here)
        return pooled_probabilities(voices.rows, weight, tau=self.tau)


@final
@dataclass(frozen=True, slots=True)
class Random:
    """At each step one teacher, drawn anew; a row that it did not answer goes to the next one drawn.

    It is a function of the seed and the step, so a training that was resumed draws the same, as do several processes.
    Fukuda et al., *Efficient Knowledge Distillation from an Ensemble of Teachers* (Interspeech 2017,
    https://doi.org/10.21437/Interspeech.2017-614), switch teachers in this way.

    Arguments:
        weights: how likely each is to be drawn, relative to 1 for one that is not named; above zero.
        seed: of the draws.
    """

    weights: Weights = None
    seed: int = 0

    def __post_init__(self) -> None:
        _require_weights(self.weights)

    def voice(self, voices: Voices) -> Tensor:
        step = voices.progress.before + voices.progress.step
        chance = shares(self.weights, voices).double().cpu()
        # Exponential races: the order of arrival is a draw by weight without putting back.
        arrival = -torch.rand(len(chance), generator=generator(self.seed, _DRAW, step), dtype=torch.float64).log()
        order = (arrival / chance).argsort().to(voices.rows.device)
        return pooled_logits(voices.rows, by_draw(order, voices.here).to(voices.rows))


@final
class Learned(nn.Module):
    """The mean of probabilities by weights that are learned: those under which the teachers together know the labels.

    It is a term as well, which the distiller adds to the objective under the name ``combination``: the cross-entropy of
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

    def prepare(self, exchange: Exchange) -> None:
        """One number for each teacher."""
        tensor = next(one.rows() for one in exchange.teachers.values())
        self.scores = nn.Parameter(torch.zeros(len(exchange.teachers), device=tensor.device))

    def voice(self, voices: Voices) -> Tensor:
        return self._pooled(voices).detach()

    def forward(self, exchange: Exchange) -> Tensor:
        """The cross-entropy of the common answer with the truth, over the labelled rows that somebody answered."""
        voices, target = heard_together(exchange.teachers), exchange.truth()
        assert voices is not None
        known = voices.here.any(dim=0)
        answered = voices._replace(rows=voices.rows[:, known], here=voices.here[:, known])
        return cross_entropy(self._pooled(answered), target[known])

    def weights(self) -> list[float]:
        """What each teacher weighs now."""
        return [] if self.scores is None else F.softmax(self.scores.detach().float(), dim=0).tolist()

    def _pooled(self, voices: Voices) -> Tensor:
        scores = voices.rows.new_zeros(len(voices.names)) if self.scores is None else self.scores.to(voices.rows)
        return pooled_probabilities(voices.rows, by_share(F.softmax(scores, dim=0), voices.here))


def _require_weights(weights: Weights) -> None:
    for name, weight in (weights or {}).items():
        if not 0 < weight < math.inf:
            raise LimbeckError(
                f"a teacher's weight is a number above zero, and that of {name!r} is {weight}: leave out a teacher "
                "that is not to be heard"
            )


def _require_tau(tau: float) -> None:
    if not 0 < tau < math.inf:
        raise LimbeckError(f"a temperature is a number above zero, not {tau}")
