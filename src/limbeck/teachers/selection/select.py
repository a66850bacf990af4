"""Which of several candidates are to teach together: greedy forward selection under a latency budget.

The ensemble is the mean of probabilities, and the figure its negative log-likelihood (NLL) on the validation part: a
proper score of the very probabilities that the student is to learn, where accuracy only counts their largest and leaves
ties. Greedy selection from a library by a validation figure is that of Caruana et al., *Ensemble Selection from
Libraries of Models* (2004, https://doi.org/10.1145/1015330.1015432), here without repeats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.teachers.selection.rules import (
    SelectionRules,
    TeacherSimilarity,
    format_margin,
    format_milliseconds,
    is_margin_too_small,
    is_too_similar,
)

__all__ = ["Candidate", "SelectionStep", "TeacherSelection", "greedy_select"]

_UNLABELED = -100
_Z_95 = 1.96
# A truth that a candidate calls impossible (an API that answers with its ten likeliest) must not count for ever.
_MIN_PROBABILITY = 1e-12


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One that might teach.

    Attributes:
        probabilities: ``[n, classes]``, its answers to the validation samples.
        margin: points of accuracy above the student alone.
        latency_ms: ms a picture.
    """

    probabilities: Tensor
    margin: float
    latency_ms: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionStep:
    """One candidate that was taken.

    Attributes:
        name: which.
        nll: of the ensemble with it, nats a sample.
        accuracy: accuracy of the ensemble with it.
        latency_ms: of the ensemble with it, ms a picture.
        nll_gain: by how many nats it lowered the NLL; ``None`` for the first.
        nll_gain_stderr: the standard error of that gain over the samples, paired; ``None`` for the first.
    """

    name: str
    nll: float
    accuracy: float
    latency_ms: float
    nll_gain: float | None = None
    nll_gain_stderr: float | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSelection:
    """Who is to teach (``steps``, in the order they were taken, perhaps nobody), and why each is in or out."""

    steps: tuple[SelectionStep, ...]
    reasons: Mapping[str, str]

    @property
    def selected(self) -> tuple[str, ...]:
        """Their names, the best first."""
        return tuple(step.name for step in self.steps)


def greedy_select(
    candidates: Mapping[str, Candidate], target: Tensor, *, latency_budget: float, similarities: Sequence[TeacherSimilarity] = (),
    rules: SelectionRules = SelectionRules(),
) -> TeacherSelection:  # fmt: skip
    """Take the candidate with the best NLL, then each that lowers the ensemble's by more than chance, while time lasts.

    Arguments:
        candidates: by name, all of the same samples and classes.
        target: ``[n]`` class numbers; samples with −100 have no label and are left out.
        latency_budget: the largest latency of the ensemble, the sum of its members', in ms a picture; ``math.inf`` for none.
        similarities: how alike pairs of candidates are; one that is too alike to a teacher already taken is left out.
        rules: the margin, and what too alike means.

    A candidate that is closer to the student than the margin is taken only where no other fits the budget: the best of
    those, alone. One that is not above the student at all has nothing to teach, and is never taken. The gain of another
    teacher has to exceed 1.96 paired standard errors over the samples; equal candidates are decided by latency, then
    by order.

    Raises:
        LimbeckError: no candidate or no label, other samples or classes, or answers that are no probabilities.

    >>> sure, right = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([0, 1])
    >>> big = Candidate(probabilities=sure, margin=9.0, latency_ms=3.0)
    >>> near = Candidate(probabilities=sure.lerp(torch.tensor(0.5), 0.5), margin=1.3, latency_ms=1.0)
    >>> found = greedy_select({"near": near, "big": big}, right, latency_budget=5.0)
    >>> found.selected, found.reasons["near"]
    (('big',), 'too close to the student: +1.3 points, the rule is 5')
    """
    probabilities, labels = _labeled_probabilities(candidates, target)
    affordable = [
        name
        for name, candidate in candidates.items()
        if candidate.margin > 0 and candidate.latency_ms <= latency_budget
    ]
    eligible = [name for name in affordable if not is_margin_too_small(candidates[name].margin, rules)]
    search = _GreedySearch(candidates, probabilities, labels, latency_budget, similarities, rules)
    # Nothing else is left: then the best that breaks the margin teaches, alone.
    names = search.select_forward(eligible) if eligible else search.select_forward(affordable)[:1]
    steps = search.build_steps(names)
    reasons = {name: search.explain(name, names, eligible) for name in candidates}
    return TeacherSelection(steps=steps, reasons=reasons)


@final
@dataclass(frozen=True, slots=True)
class _GreedySearch:
    """One selection; an ensemble is a list of names."""

    candidates: Mapping[str, Candidate]
    probabilities: Mapping[str, Tensor]
    target: Tensor
    latency_budget: float
    similarities: Sequence[TeacherSimilarity]
    rules: SelectionRules

    def select_forward(self, names: Sequence[str]) -> list[str]:
        """Greedy forward selection from ``names``."""
        if not names:
            return []
        selected = [
            min(names, key=lambda name: (float(self.ensemble_nll([name]).mean()), self.candidates[name].latency_ms))
        ]
        while True:
            gains = {}
            for name in names:
                if (
                    name in selected
                    or self.find_similar(name, selected)
                    or self.total_latency([*selected, name]) > self.latency_budget
                ):
                    continue
                gain, stderr = self.nll_gain(selected, name)
                if gain > _Z_95 * stderr:
                    gains[name] = gain
            if not gains:
                return selected
            selected.append(max(gains, key=lambda name: (gains[name], -self.candidates[name].latency_ms)))

    def build_steps(self, names: Sequence[str]) -> tuple[SelectionStep, ...]:
        steps = []
        for i, name in enumerate(names):
            prefix = names[: i + 1]
            gain, stderr = self.nll_gain(names[:i], name) if i else (None, None)
            nll, latency = float(self.ensemble_nll(prefix).mean()), self.total_latency(prefix)
            steps.append(
                SelectionStep(
                    name=name,
                    nll=nll,
                    accuracy=self.ensemble_accuracy(prefix),
                    latency_ms=latency,
                    nll_gain=gain,
                    nll_gain_stderr=stderr,
                )
            )
        return tuple(steps)

    def explain(self, name: str, selected: Sequence[str], eligible: Sequence[str]) -> str:
        """Why it was taken or left, in a few words."""
        if name in selected:
            return self._explain_selected(name, selected, eligible)
        candidate, budget = self.candidates[name], format_milliseconds(self.latency_budget)
        if candidate.margin <= 0:
            return f"not above the student ({candidate.margin:+.1f} points): it has nothing to teach"
        if is_margin_too_small(candidate.margin, self.rules):
            return f"too close to the student: {format_margin(self.candidates[name].margin, self.rules)}"
        if candidate.latency_ms > self.latency_budget:
            return f"too slow: {format_milliseconds(candidate.latency_ms)} of a budget of {budget}"
        if pair := self.find_similar(name, selected):
            similar_name = pair.first if pair.second == name else pair.second
            agreement = f"{pair.agreement:.1%}".replace("%", " %")
            return f"too alike: agrees with {similar_name} on {agreement}, CKA {pair.cka:.2f}"
        if self.total_latency([*selected, name]) > self.latency_budget:
            remaining = format_milliseconds(self.latency_budget - self.total_latency(selected))
            return f"too slow beside the others: {format_milliseconds(candidate.latency_ms)}, and {remaining} of {budget} are left"
        gain, stderr = self.nll_gain(selected, name)
        verdict = (
            f"{len(self.target)} samples cannot tell that from nothing" if gain > -_Z_95 * stderr else "worse with it"
        )
        return f"left out: {self._format_gain(selected, name)}; {verdict}"

    def _explain_selected(self, name: str, selected: Sequence[str], eligible: Sequence[str]) -> str:
        if name not in eligible:
            margin = format_margin(self.candidates[name].margin, self.rules)
            return f"kept though too close to the student: {margin}; nothing else is left"
        previous = selected[: selected.index(name)]
        if previous:
            return f"kept: {self._format_gain(previous, name)}"
        return f"kept first: best alone (NLL {float(self.ensemble_nll([name]).mean()):.3f})"

    def ensemble_nll(self, names: Sequence[str]) -> Tensor:
        """Negative log-likelihood of the mean of probabilities, ``[n]`` nats."""
        target_probability = self._mean_probabilities(names).gather(1, self.target[:, None])[:, 0]
        return -target_probability.clamp(min=_MIN_PROBABILITY).log()

    def ensemble_accuracy(self, names: Sequence[str]) -> float:
        return float((self._mean_probabilities(names).argmax(dim=1) == self.target).double().mean())

    def total_latency(self, names: Sequence[str]) -> float:
        return math.fsum(self.candidates[name].latency_ms for name in names)

    def nll_gain(self, selected: Sequence[str], name: str) -> tuple[float, float]:
        """By how many nats ``name`` lowers the NLL of ``selected``, and the standard error of that."""
        difference = self.ensemble_nll(selected) - self.ensemble_nll([*selected, name])
        if len(difference) < 2:
            return float(difference.mean()), math.inf
        return float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))

    def find_similar(self, name: str, selected: Sequence[str]) -> TeacherSimilarity | None:
        """The first pair of ``name`` with one of ``selected`` that is too alike."""
        for pair in self.similarities:
            both = {pair.first, pair.second}
            if name in both and both - {name} <= set(selected) and is_too_similar(pair, self.rules):
                return pair
        return None

    def _mean_probabilities(self, names: Sequence[str]) -> Tensor:
        return torch.stack([self.probabilities[name] for name in names]).mean(dim=0)

    def _format_gain(self, selected: Sequence[str], name: str) -> str:
        gain, stderr = self.nll_gain(selected, name)
        points = 100 * (self.ensemble_accuracy([*selected, name]) - self.ensemble_accuracy(selected))
        interval = f" ± {_Z_95 * stderr:.3f}" if math.isfinite(stderr) else ""
        return f"{points:+.1f} points, NLL {-gain:+.3f}{interval}, for {format_milliseconds(self.candidates[name].latency_ms)} more"


def _labeled_probabilities(candidates: Mapping[str, Candidate], target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Checked probabilities of the labelled samples in float64, and their truth."""
    if not candidates:
        raise LimbeckError("there is no candidate to choose from: give at least one")
    classes = {name: candidate.probabilities.shape[-1] for name, candidate in candidates.items()}
    if len(set(classes.values())) > 1:
        raise LimbeckError(
            f"the candidates know different numbers of classes ({', '.join(f'{n}: {c}' for n, c in classes.items())}): "
            "choose among networks for the same classes"
        )
    is_labeled = (target != _UNLABELED).cpu()
    if target.ndim != 1 or not bool(is_labeled.any()):
        raise LimbeckError("no validation sample has a label, so nobody can be chosen by it: give labelled ones")
    labels = target.cpu()[is_labeled].long()
    probabilities = {
        name: _check_candidate(name, candidate, len(target))[is_labeled] for name, candidate in candidates.items()
    }
    if int(labels.min()) < 0 or int(labels.max()) >= max(classes.values()):
        raise LimbeckError(
            f"the target has classes from {int(labels.min())} to {int(labels.max())}, and the candidates know "
            f"{max(classes.values())}, counted from 0"
        )
    return probabilities, labels


def _check_candidate(name: str, candidate: Candidate, num_samples: int) -> Tensor:
    probabilities = candidate.probabilities.detach().cpu().double()
    if probabilities.ndim != 2 or len(probabilities) != num_samples:
        raise LimbeckError(
            f"the candidate {name!r} answers with the shape {list(probabilities.shape)}, and there are {num_samples} samples: give "
            "[samples, classes]"
        )
    if not bool(probabilities.isfinite().all()):
        raise LimbeckError(f"the candidate {name!r} gives probabilities that are NaN or infinite: look at its weights")
    if bool((probabilities < 0).any()) or not bool(((probabilities.sum(dim=1) - 1).abs() < 1e-3).all()):
        raise LimbeckError(f"the candidate {name!r} gives rows that are no probabilities: each is 0..1, and sums to 1")
    if not (math.isfinite(candidate.margin) and math.isfinite(candidate.latency_ms) and candidate.latency_ms >= 0):
        raise LimbeckError(
            f"the candidate {name!r} has the margin {candidate.margin} and the latency {candidate.latency_ms}: both are finite numbers"
        )
    return probabilities
