"""Greedy forward selection of an ensemble of teachers under a latency budget.

The ensemble is the mean of probabilities; its metric is the negative log-likelihood (NLL) on the validation split, a
proper score of the probabilities that the student learns from. Caruana et al., *Ensemble Selection from Libraries of
Models* (2004, https://doi.org/10.1145/1015330.1015432), here without replacement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

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
    steps = tuple(search.build_step(names[:i], name) for i, name in enumerate(names))
    return TeacherSelection(steps=steps, reasons=reasons)


class _Ensemble(NamedTuple):
    """NLL of each sample, accuracy, and latency of an ensemble."""

    nll: Tensor
    accuracy: float
    latency_ms: float


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

    def evaluate(self, names: Sequence[str]) -> _Ensemble:
        probabilities = torch.stack([self.probabilities[name] for name in names]).mean(dim=0)
        nll = -probabilities.gather(1, self.target[:, None])[:, 0].clamp(min=_MIN_PROBABILITY).log()
        accuracy = float((probabilities.argmax(dim=1) == self.target).double().mean())
        return _Ensemble(nll, accuracy, math.fsum(self.candidates[name].latency_ms for name in names))

    def select_forward(self, names: Sequence[str]) -> list[str]:
        """Greedy forward selection from ``names``."""
        selected: list[str] = []
        nll = {name: float(self.evaluate([name]).nll.mean()) for name in names}
        ranked = sorted(names, key=lambda name: (nll[name], self.candidates[name].latency_ms))
        while ranked:
            selected.append(ranked[0])
            gains = {}
            for name in names:
                if name in selected or self.find_similar(name, selected):
                    continue
                gain, stderr = self.nll_gain(selected, name)
                if gain > _Z_95 * stderr and self.evaluate([*selected, name]).latency_ms <= self.latency_budget:
                    gains[name] = gain
            ranked = sorted(gains, key=lambda name: (-gains[name], self.candidates[name].latency_ms))
        return selected

    def build_step(self, previous: Sequence[str], name: str) -> SelectionStep:
        ensemble = self.evaluate([*previous, name])
        gain, stderr = self.nll_gain(previous, name) if previous else (None, None)
        return SelectionStep(
            name=name, nll=float(ensemble.nll.mean()), accuracy=ensemble.accuracy, latency_ms=ensemble.latency_ms,
            nll_gain=gain, nll_gain_stderr=stderr,
        )  # fmt: skip

    def explain(self, name: str, selected: Sequence[str]) -> str:
        """Why a candidate was selected or not."""
        margin, latency = self.candidates[name].margin, self.candidates[name].latency_ms
        is_close = self.rules.is_margin_too_small(margin)
        closeness = f"too close to the baseline: {format_margin(margin, self.rules)}"
        if name in selected:
            if is_close:
                return f"selected although {closeness}; no other candidate is left"
            if previous := selected[: selected.index(name)]:
                return f"selected: {self._format_gain(previous, name)}"
            return f"selected first: lowest NLL ({float(self.evaluate([name]).nll.mean()):.3f})"
        if margin <= 0:
            return f"not above the baseline ({margin:+.1f} points)"
        if is_close:
            return closeness
        slowness, budget = format_milliseconds(latency), format_milliseconds(self.latency_budget)
        if latency > self.latency_budget:
            return f"too slow: {slowness} of a budget of {budget}"
        if pair := self.find_similar(name, selected):
            similar_name = pair.first if pair.second == name else pair.second
            return f"too similar: agrees with {similar_name} on {100 * pair.agreement:.1f} %, CKA {pair.cka:.2f}"
        if self.evaluate([*selected, name]).latency_ms > self.latency_budget:
            remaining = format_milliseconds(self.latency_budget - self.evaluate(selected).latency_ms)
            return f"too slow with the selected ones: {slowness}, and {remaining} of {budget} remain"
        gain, stderr = self.nll_gain(selected, name)
        significance = f"not significant (n = {len(self.target)})" if gain > -_Z_95 * stderr else "worse with it"
        return f"not selected: {self._format_gain(selected, name)}; {significance}"

    def nll_gain(self, selected: Sequence[str], name: str) -> tuple[float, float]:
        """Decrease of the NLL of ``selected`` by adding ``name``, and its standard error."""
        difference = self.evaluate(selected).nll - self.evaluate([*selected, name]).nll
        stderr = float(difference.std()) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
        return float(difference.mean()), stderr

    def find_similar(self, name: str, selected: Sequence[str]) -> TeacherSimilarity | None:
        """The first pair of ``name`` and a selected teacher that is too similar."""
        for pair in filter(self.rules.is_too_similar, self.similarities):
            if any({pair.first, pair.second} == {name, selected_name} for selected_name in selected):
                return pair
        return None

    def _format_gain(self, selected: Sequence[str], name: str) -> str:
        gain, stderr = self.nll_gain(selected, name)
        points = 100 * (self.evaluate([*selected, name]).accuracy - self.evaluate(selected).accuracy)
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
        values = f"margin {candidate.margin} and latency {candidate.latency_ms}"
        raise LimbeckError(f"margin and latency of {name!r} must be finite, got {values}")
    return probabilities
