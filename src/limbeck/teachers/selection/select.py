"""Greedy forward selection of an ensemble of teachers under a latency budget.

Caruana et al., *Ensemble Selection from Libraries of Models* (2004, https://doi.org/10.1145/1015330.1015432), here
without replacement. Of teachers with class probabilities the ensemble is their mean, and its criterion the negative
log-likelihood (NLL) on the validation split, a proper score of the probabilities that the student learns from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.teachers.selection.rules import (
    SelectionRules,
    TeacherSimilarity,
    format_difference,
    format_margin,
    format_milliseconds,
)

__all__ = [
    "Candidate",
    "CriterionGain",
    "EnsembleCriterion",
    "NLLCriterion",
    "SelectionStep",
    "TeacherSelection",
    "greedy_select",
]

_UNLABELED = -100
_Z_95 = 1.96
# Bounds the NLL of a sample whose label has probability 0, as from a server that returns its top ten classes.
_MIN_PROBABILITY = 1e-12


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A candidate teacher.

    Attributes:
        margin: by how much it is better than the baseline, in the unit of differences of the metric.
        latency_ms: ms per sample.
    """

    margin: float
    latency_ms: float


class CriterionGain(NamedTuple):
    """How much better an ensemble is with a further candidate, and both ends of the 95 % interval over samples."""

    value: float
    low: float
    high: float


class EnsembleCriterion(Protocol):
    """Measures ensembles of candidates, given by name, on the validation samples.

    Attributes:
        num_samples: number of samples with a target.
        description: how ensembles are made and compared, for the file of the selection.
        criterion_name: what is minimized, such as NLL; empty: the primary metric.
    """

    @property
    def num_samples(self) -> int: ...
    @property
    def description(self) -> str: ...
    @property
    def criterion_name(self) -> str: ...

    def criterion_value(self, names: Sequence[str]) -> float:
        """What the selection minimizes."""

    def metric_value(self, names: Sequence[str]) -> float:
        """The primary metric, in its own scale."""

    def gain(self, selected: Sequence[str], name: str) -> CriterionGain | None:
        """The decrease of the criterion of ``selected`` with ``name`` added; ``None`` where they cannot be combined."""

    def describe(self, names: Sequence[str]) -> str:
        """Why an ensemble is the best, such as "lowest NLL (0.268)"."""

    def describe_gain(self, selected: Sequence[str], name: str) -> str:
        """:meth:`gain` as text."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionStep:
    """A selected candidate.

    Attributes:
        name: its name.
        criterion_value: what the selection minimizes, of the ensemble with it.
        value: primary metric of the ensemble with it.
        latency_ms: latency of the ensemble with it, in ms per sample.
        gain: decrease of the criterion; ``None`` for the first.
        gain_interval: both ends of the 95 % interval of ``gain`` over samples; ``None`` for the first.
    """

    name: str
    criterion_value: float
    value: float
    latency_ms: float
    gain: float | None = None
    gain_interval: tuple[float, float] | None = None


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
    candidates: Mapping[str, Candidate], criterion: EnsembleCriterion, *, metric: MetricSpec, latency_budget: float,
    similarities: Sequence[TeacherSimilarity] = (), rules: SelectionRules | None = None,
) -> TeacherSelection:  # fmt: skip
    """Select the candidate with the lowest criterion, then those that decrease it significantly, within the budget.

    Args:
        candidates: candidates by name.
        criterion: measures ensembles of them.
        metric: the primary metric.
        latency_budget: largest sum of latencies in ms per sample; may be ``math.inf``.
        similarities: similarities of pairs; a candidate that is too similar to a selected one is skipped.
        rules: smallest margin, and thresholds of similarity; ``None``: those of ``metric``.

    A candidate with too small a margin is selected only if no other fits the budget, and then only the best one.
    Candidates that are not better than the baseline are never selected. The 95 % interval of the gain of a further
    candidate must be above zero. Ties are resolved by latency, then by order.

    Raises:
        LimbeckError: no candidate, or a margin or latency that is not finite.

    >>> confident, target = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([0, 1])
    >>> probabilities = {"big": confident, "small": confident.lerp(torch.tensor(0.5), 0.5)}
    >>> metric = MetricSpec(name="miou", label="Mean IoU")
    >>> criterion = NLLCriterion(probabilities, target, metric=metric, metric_of_logits=lambda log_p: 1.0)
    >>> candidates = {"small": Candidate(margin=1.3, latency_ms=1.0), "big": Candidate(margin=9.0, latency_ms=3.0)}
    >>> selection = greedy_select(candidates, criterion, metric=metric, latency_budget=5.0)
    >>> selection.selected, selection.reasons["small"]
    (('big',), 'too close to the baseline: +1.3 points, the threshold is 5')
    """
    if not candidates:
        raise LimbeckError("greedy_select needs at least one candidate, got none")
    for name, candidate in candidates.items():
        if not (math.isfinite(candidate.margin) and 0 <= candidate.latency_ms < math.inf):
            values = f"margin {candidate.margin} and latency {candidate.latency_ms}"
            raise LimbeckError(f"margin and latency of {name!r} must be finite, got {values}")
    rules = SelectionRules.for_metric(metric) if rules is None else rules
    search = _GreedySearch(candidates, criterion, metric, latency_budget, similarities, rules)
    affordable = [name for name, c in candidates.items() if c.margin > 0 and c.latency_ms <= latency_budget]
    eligible = [name for name in affordable if not rules.is_margin_too_small(candidates[name].margin)]
    names = search.select_forward(eligible) if eligible else search.select_forward(affordable)[:1]
    reasons = {name: search.explain(name, names) for name in candidates}
    steps = tuple(search.build_step(names[:i], name) for i, name in enumerate(names))
    return TeacherSelection(steps=steps, reasons=reasons)


@final
class NLLCriterion:
    """The NLL of the mean of probabilities.

    Args:
        probabilities: ``[n, classes]`` of each candidate, on the same samples and classes.
        target: ``[n]`` class indices; samples with −100 are ignored.
        metric: the primary metric.
        metric_of_logits: the primary metric of log-probabilities ``[n, classes]``.

    Raises:
        LimbeckError: no label, different samples or classes, or rows that are not probabilities.
    """

    description = "validation NLL of the mean of probabilities, greedy forward"
    criterion_name = "NLL"

    def __init__(
        self, probabilities: Mapping[str, Tensor], target: Tensor, *, metric: MetricSpec,
        metric_of_logits: Callable[[Tensor], float],
    ) -> None:  # fmt: skip
        self._probabilities = {
            name: _check_probabilities(name, values, len(target)) for name, values in probabilities.items()
        }
        self._is_labeled, self._labels = _check_target(self._probabilities, target)
        self._metric, self._metric_of_logits = metric, metric_of_logits
        self._values = dict[tuple[str, ...], float]()

    @property
    def num_samples(self) -> int:
        """Number of labeled samples."""
        return len(self._labels)

    def criterion_value(self, names: Sequence[str]) -> float:
        """The NLL in nats per sample."""
        return float(self._nll(names).mean())

    def metric_value(self, names: Sequence[str]) -> float:
        """The primary metric of the mean of probabilities."""
        key = tuple(names)
        if key not in self._values:
            self._values[key] = self._metric_of_logits(self._mean(names).clamp(min=_MIN_PROBABILITY).log())
        return self._values[key]

    def gain(self, selected: Sequence[str], name: str) -> CriterionGain:
        """The decrease of the NLL, with 1.96 paired standard errors."""
        difference = self._nll(selected) - self._nll([*selected, name])
        stderr = float(difference.std()) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
        gain = float(difference.mean())
        return CriterionGain(gain, gain - _Z_95 * stderr, gain + _Z_95 * stderr)

    def describe(self, names: Sequence[str]) -> str:
        """The NLL."""
        return f"lowest NLL ({self.criterion_value(names):.3f})"

    def describe_gain(self, selected: Sequence[str], name: str) -> str:
        """The change of the metric and of the NLL."""
        gain = self.gain(selected, name)
        difference = self._metric.gain(self.metric_value([*selected, name]), self.metric_value(selected))
        interval = f" ± {gain.high - gain.value:.3f}" if math.isfinite(gain.high) else ""
        return f"{format_difference(difference, self._metric)}, NLL {-gain.value:+.3f}{interval}"

    def _mean(self, names: Sequence[str]) -> Tensor:
        return torch.stack([self._probabilities[name] for name in names]).mean(dim=0)

    def _nll(self, names: Sequence[str]) -> Tensor:
        """``[labeled samples]``."""
        labeled = self._mean(names)[self._is_labeled]
        return -labeled.gather(1, self._labels[:, None])[:, 0].clamp(min=_MIN_PROBABILITY).log()


@final
@dataclass(frozen=True, slots=True)
class _GreedySearch:
    """A selection; an ensemble is a sequence of names."""

    candidates: Mapping[str, Candidate]
    criterion: EnsembleCriterion
    metric: MetricSpec
    latency_budget: float
    similarities: Sequence[TeacherSimilarity]
    rules: SelectionRules

    def latency(self, names: Sequence[str]) -> float:
        """The sum of the latencies."""
        return math.fsum(self.candidates[name].latency_ms for name in names)

    def select_forward(self, names: Sequence[str]) -> list[str]:
        """Greedy forward selection from ``names``."""
        selected: list[str] = []
        values = {name: self.criterion.criterion_value([name]) for name in names}
        ranked = sorted(names, key=lambda name: (values[name], self.candidates[name].latency_ms))
        while ranked:
            selected.append(ranked[0])
            gains = {}
            for name in names:
                is_possible = name not in selected and not self.find_similar(name, selected)
                if not is_possible or self.latency([*selected, name]) > self.latency_budget:
                    continue
                gain = self.criterion.gain(selected, name)
                if gain is not None and gain.low > 0:
                    gains[name] = gain.value
            ranked = sorted(gains, key=lambda name: (-gains[name], self.candidates[name].latency_ms))
        return selected

    def build_step(self, previous: Sequence[str], name: str) -> SelectionStep:
        names = [*previous, name]
        gain = self.criterion.gain(previous, name) if previous else None
        return SelectionStep(
            name=name, criterion_value=self.criterion.criterion_value(names), value=self.criterion.metric_value(names),
            latency_ms=self.latency(names), gain=None if gain is None else gain.value,
            gain_interval=None if gain is None else (gain.low, gain.high),
        )  # fmt: skip

    def explain(self, name: str, selected: Sequence[str]) -> str:
        """Why a candidate was selected or not."""
        margin, latency = self.candidates[name].margin, self.candidates[name].latency_ms
        is_close = self.rules.is_margin_too_small(margin)
        closeness = f"too close to the baseline: {format_margin(margin, self.rules, self.metric)}"
        if name in selected:
            if is_close:
                return f"selected although {closeness}; no other candidate is left"
            if previous := selected[: selected.index(name)]:
                return f"selected: {self._format_gain(previous, name)}"
            return f"selected first: {self.criterion.describe([name])}"
        if margin <= 0:
            return f"not better than the baseline ({format_difference(margin, self.metric)})"
        if is_close:
            return closeness
        slowness, budget = format_milliseconds(latency), format_milliseconds(self.latency_budget)
        if latency > self.latency_budget:
            return f"too slow: {slowness} of a budget of {budget}"
        if pair := self.find_similar(name, selected):
            return self._format_similarity(pair, name)
        if self.latency([*selected, name]) > self.latency_budget:
            remaining = format_milliseconds(self.latency_budget - self.latency(selected))
            return f"too slow with the selected ones: {slowness}, and {remaining} of {budget} remain"
        gain = self.criterion.gain(selected, name)
        if gain is None:
            return "not selected: its outputs have other shapes than those of the selected ones"
        is_uncertain = gain.high > 0
        significance = f"not significant (n = {self.criterion.num_samples})" if is_uncertain else "worse with it"
        return f"not selected: {self._format_gain(selected, name)}; {significance}"

    def find_similar(self, name: str, selected: Sequence[str]) -> TeacherSimilarity | None:
        """The first pair of ``name`` and a selected teacher that is too similar."""
        for pair in filter(self.rules.is_too_similar, self.similarities):
            if any({pair.first, pair.second} == {name, selected_name} for selected_name in selected):
                return pair
        return None

    def _format_similarity(self, pair: TeacherSimilarity, name: str) -> str:
        other = pair.first if pair.second == name else pair.second
        if pair.agreement is not None:
            return f"too similar: agrees with {other} on {100 * pair.agreement:.1f} %, CKA {pair.cka:.2f}"
        return f"too similar: correlates with {other} by sample ({pair.correlation:.2f}), CKA {pair.cka:.2f}"

    def _format_gain(self, selected: Sequence[str], name: str) -> str:
        latency = format_milliseconds(self.candidates[name].latency_ms)
        return f"{self.criterion.describe_gain(selected, name)}, for {latency} more"


def _check_target(probabilities: Mapping[str, Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
    """``[n]`` booleans of the labeled samples, and their labels."""
    if not probabilities:
        raise LimbeckError("an ensemble needs at least one candidate, got none")
    classes = {name: values.shape[-1] for name, values in probabilities.items()}
    num_classes = max(classes.values())
    if min(classes.values()) < num_classes:
        raise LimbeckError(f"candidates must have the same number of classes, got {classes}")
    is_labeled = (target != _UNLABELED).cpu()
    if target.ndim != 1 or not bool(is_labeled.any()):
        raise LimbeckError("a selection needs labeled samples, got none: use a labeled validation split")
    labels = target.cpu()[is_labeled].long()
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise LimbeckError(f"target must be in [0, {num_classes}), got {int(labels.min())} to {int(labels.max())}")
    return is_labeled, labels


def _check_probabilities(name: str, probabilities: Tensor, num_samples: int) -> Tensor:
    probabilities = probabilities.detach().cpu().double()
    if probabilities.ndim != 2 or len(probabilities) != num_samples:
        raise LimbeckError(
            f"probabilities of {name!r} must be [{num_samples}, classes], got the shape {list(probabilities.shape)}"
        )
    if not bool(probabilities.isfinite().all()):
        raise LimbeckError(f"probabilities of {name!r} must be finite, got NaN or infinity: check its weights")
    if bool((probabilities < 0).any()) or not bool(((probabilities.sum(dim=1) - 1).abs() < 1e-3).all()):
        raise LimbeckError(f"probabilities of {name!r} must be at least 0 and sum to 1 in each row")
    return probabilities
