"""Greedy forward selection of an ensemble of teachers under a latency budget.

The ensemble is the mean of probabilities; its metric is the negative log-likelihood (NLL) on the validation split, a
proper score of the probabilities that the student learns from. Caruana et al., *Ensemble Selection from Libraries of
Models* (2004, https://doi.org/10.1145/1015330.1015432), here without replacement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.teachers.selection.rules import SelectionRules, TeacherSimilarity, format_margin, format_milliseconds

__all__ = ["Candidate", "SelectionStep", "TeacherSelection", "greedy_select"]

_UNLABELED = -100
_Z_95 = 1.96
# Bounds the NLL of a sample whose label has probability 0, as from a server that returns its top ten classes.
_MIN_PROBABILITY = 1e-12


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A candidate teacher.

    Attributes:
        probabilities: predictions ``[n, classes]`` on the validation samples.
        margin: percentage points of accuracy above the baseline.
        latency_ms: ms per image.
    """

    probabilities: Tensor
    margin: float
    latency_ms: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionStep:
    """A selected candidate.

    Attributes:
        name: its name.
        nll: NLL of the ensemble with it, in nats per sample.
        accuracy: accuracy of the ensemble with it.
        latency_ms: latency of the ensemble with it, in ms per image.
        nll_gain: decrease of the NLL; ``None`` for the first.
        nll_gain_stderr: standard error of ``nll_gain`` over paired samples; ``None`` for the first.
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
    """Selected teachers (``steps``, in order, possibly none), and the reason for each candidate."""

    steps: tuple[SelectionStep, ...]
    reasons: Mapping[str, str]

    @property
    def selected(self) -> tuple[str, ...]:
        """Names of the selected teachers, in order."""
        return tuple(step.name for step in self.steps)


def greedy_select(
    candidates: Mapping[str, Candidate], target: Tensor, *, latency_budget: float,
    similarities: Sequence[TeacherSimilarity] = (),
    rules: SelectionRules = SelectionRules(),
) -> TeacherSelection:  # fmt: skip
    """Select the candidate with the lowest NLL, then those that decrease it significantly, within the budget.

    Args:
        candidates: candidates by name, with predictions on the same samples and classes.
        target: ``[n]`` class indices; samples with −100 are ignored.
        latency_budget: largest sum of latencies in ms per image; may be ``math.inf``.
        similarities: similarities of pairs; a candidate that is too similar to a selected one is skipped.
        rules: smallest margin, and thresholds of similarity.

    A candidate with too small a margin is selected only if no other fits the budget, and then only the best one.
    Candidates that are not above the baseline are never selected. A further candidate must decrease the NLL by more
    than 1.96 paired standard errors. Ties are resolved by latency, then by order.

    Raises:
        LimbeckError: no candidate or label, different samples or classes, or rows that are no probabilities.

    >>> confident, target = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([0, 1])
    >>> big = Candidate(probabilities=confident, margin=9.0, latency_ms=3.0)
    >>> small = Candidate(probabilities=confident.lerp(torch.tensor(0.5), 0.5), margin=1.3, latency_ms=1.0)
    >>> selection = greedy_select({"small": small, "big": big}, target, latency_budget=5.0)
    >>> selection.selected, selection.reasons["small"]
    (('big',), 'too close to the baseline: +1.3 points, the rule is 5')
    """
    probabilities, labels = _labeled_probabilities(candidates, target)
    search = _GreedySearch(candidates, probabilities, labels, latency_budget, similarities, rules)
    affordable = [name for name, c in candidates.items() if c.margin > 0 and c.latency_ms <= latency_budget]
    eligible = [name for name in affordable if not rules.is_margin_too_small(candidates[name].margin)]
    names = search.select_forward(eligible) if eligible else search.select_forward(affordable)[:1]
    reasons = {name: search.explain(name, names) for name in candidates}
    return TeacherSelection(steps=search.build_steps(names), reasons=reasons)


@final
@dataclass(frozen=True, slots=True)
class _GreedySearch:
    """A selection; an ensemble is a sequence of names."""

    candidates: Mapping[str, Candidate]
    probabilities: Mapping[str, Tensor]
    target: Tensor
    latency_budget: float
    similarities: Sequence[TeacherSimilarity]
    rules: SelectionRules

    def select_forward(self, names: Sequence[str]) -> list[str]:
        """Greedy forward selection from ``names``."""
        selected: list[str] = []
        ranked = sorted(names, key=lambda name: (self.mean_nll([name]), self.candidates[name].latency_ms))
        while ranked:
            selected.append(ranked[0])
            gains = {}
            for name in names:
                if name in selected or self.find_similar(name, selected) or self.remaining_latency(selected, name) < 0:
                    continue
                gain, stderr = self.nll_gain(selected, name)
                if gain > _Z_95 * stderr:
                    gains[name] = gain
            ranked = sorted(gains, key=lambda name: (-gains[name], self.candidates[name].latency_ms))
        return selected

    def build_steps(self, names: Sequence[str]) -> tuple[SelectionStep, ...]:
        steps = []
        for i, name in enumerate(names):
            ensemble = names[: i + 1]
            gain, stderr = self.nll_gain(names[:i], name) if i else (None, None)
            steps.append(
                SelectionStep(
                    name=name, nll=self.mean_nll(ensemble), accuracy=self.accuracy(ensemble),
                    latency_ms=self.total_latency(ensemble), nll_gain=gain, nll_gain_stderr=stderr,
                )
            )  # fmt: skip
        return tuple(steps)

    def explain(self, name: str, selected: Sequence[str]) -> str:
        """Why a candidate was selected or not."""
        margin, latency = self.candidates[name].margin, self.candidates[name].latency_ms
        is_close = self.rules.is_margin_too_small(margin)
        closeness = f"too close to the baseline: {format_margin(margin, self.rules)}"
        budget = format_milliseconds(self.latency_budget)
        if name in selected:
            previous = selected[: selected.index(name)]
            if is_close:
                return f"selected although {closeness}; no other candidate is left"
            if previous:
                return f"selected: {self._format_gain(previous, name)}"
            return f"selected first: lowest NLL ({self.mean_nll([name]):.3f})"
        if margin <= 0:
            return f"not above the baseline ({margin:+.1f} points)"
        if is_close:
            return closeness
        if latency > self.latency_budget:
            return f"too slow: {format_milliseconds(latency)} of a budget of {budget}"
        if pair := self.find_similar(name, selected):
            similar_name = pair.first if pair.second == name else pair.second
            return f"too similar: agrees with {similar_name} on {100 * pair.agreement:.1f} %, CKA {pair.cka:.2f}"
        if self.remaining_latency(selected, name) < 0:
            remaining = format_milliseconds(self.latency_budget - self.total_latency(selected))
            return (
                f"too slow with the selected ones: {format_milliseconds(latency)}, and {remaining} of {budget} remain"
            )
        gain, stderr = self.nll_gain(selected, name)
        significance = f"not significant (n = {len(self.target)})" if gain > -_Z_95 * stderr else "worse with it"
        return f"not selected: {self._format_gain(selected, name)}; {significance}"

    def nll(self, names: Sequence[str]) -> Tensor:
        """NLL of each sample, ``[n]``."""
        target_probability = self._mean_probabilities(names).gather(1, self.target[:, None])[:, 0]
        return -target_probability.clamp(min=_MIN_PROBABILITY).log()

    def mean_nll(self, names: Sequence[str]) -> float:
        return float(self.nll(names).mean())

    def accuracy(self, names: Sequence[str]) -> float:
        return float((self._mean_probabilities(names).argmax(dim=1) == self.target).double().mean())

    def total_latency(self, names: Sequence[str]) -> float:
        return math.fsum(self.candidates[name].latency_ms for name in names)

    def remaining_latency(self, selected: Sequence[str], name: str) -> float:
        """What is left of the budget with ``name``."""
        return self.latency_budget - self.total_latency([*selected, name])

    def nll_gain(self, selected: Sequence[str], name: str) -> tuple[float, float]:
        """Decrease of the NLL of ``selected`` by adding ``name``, and its standard error."""
        difference = self.nll(selected) - self.nll([*selected, name])
        if len(difference) < 2:
            return float(difference.mean()), math.inf
        return float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))

    def find_similar(self, name: str, selected: Sequence[str]) -> TeacherSimilarity | None:
        """The first pair of ``name`` and a selected teacher that is too similar."""
        for pair in filter(self.rules.is_too_similar, self.similarities):
            if any({pair.first, pair.second} == {name, selected_name} for selected_name in selected):
                return pair
        return None

    def _mean_probabilities(self, names: Sequence[str]) -> Tensor:
        return torch.stack([self.probabilities[name] for name in names]).mean(dim=0)

    def _format_gain(self, selected: Sequence[str], name: str) -> str:
        gain, stderr = self.nll_gain(selected, name)
        points = 100 * (self.accuracy([*selected, name]) - self.accuracy(selected))
        interval = f" ± {_Z_95 * stderr:.3f}" if math.isfinite(stderr) else ""
        latency = format_milliseconds(self.candidates[name].latency_ms)
        return f"{points:+.1f} points, NLL {-gain:+.3f}{interval}, for {latency} more"


def _labeled_probabilities(candidates: Mapping[str, Candidate], target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Checked float64 probabilities of the labeled samples, and their labels."""
    if not candidates:
        raise LimbeckError("greedy_select needs at least one candidate, got none")
    classes = {name: candidate.probabilities.shape[-1] for name, candidate in candidates.items()}
    num_classes = max(classes.values())
    if min(classes.values()) < num_classes:
        raise LimbeckError(f"candidates must have the same number of classes, got {classes}")
    is_labeled = (target != _UNLABELED).cpu()
    if target.ndim != 1 or not bool(is_labeled.any()):
        raise LimbeckError("greedy_select needs labeled samples, got none: use a labeled validation split")
    labels = target.cpu()[is_labeled].long()
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise LimbeckError(f"target must be in [0, {num_classes}), got {int(labels.min())} to {int(labels.max())}")
    checked = {name: _check_candidate(name, candidate, len(target)) for name, candidate in candidates.items()}
    return {name: probabilities[is_labeled] for name, probabilities in checked.items()}, labels


def _check_candidate(name: str, candidate: Candidate, num_samples: int) -> Tensor:
    probabilities = candidate.probabilities.detach().cpu().double()
    if probabilities.ndim != 2 or len(probabilities) != num_samples:
        raise LimbeckError(
            f"probabilities of {name!r} must be [{num_samples}, classes], got the shape {list(probabilities.shape)}"
        )
    if not bool(probabilities.isfinite().all()):
        raise LimbeckError(f"probabilities of {name!r} must be finite, got NaN or infinity: check its weights")
    if bool((probabilities < 0).any()) or not bool(((probabilities.sum(dim=1) - 1).abs() < 1e-3).all()):
        raise LimbeckError(f"probabilities of {name!r} must be at least 0 and sum to 1 in each row")
    if not (math.isfinite(candidate.margin) and 0 <= candidate.latency_ms < math.inf):
        raise LimbeckError(
            f"margin and latency of {name!r} must be finite, got margin {candidate.margin} and latency "
            f"{candidate.latency_ms}"
        )
    return probabilities
