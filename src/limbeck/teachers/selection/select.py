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
from limbeck.teachers.selection.rules import Likeness, Rules, against, milliseconds, too_alike, too_close

__all__ = ["Candidate", "Selection", "Step", "select"]

_UNLABELLED = -100
_Z = 1.96
# A truth that a candidate calls impossible (an API that answers with its ten likeliest) must not count for ever.
_FLOOR = 1e-12


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One that might teach.

    Attributes:
        probabilities: ``[n, classes]``, its answers to the validation samples.
        margin: points of accuracy above the student alone.
        latency: ms a picture.
    """

    probabilities: Tensor
    margin: float
    latency: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One candidate that was taken.

    Attributes:
        name: which.
        nll: of the ensemble with it, nats a sample.
        top1: accuracy of the ensemble with it.
        latency: of the ensemble with it, ms a picture.
        gain: by how many nats it lowered the NLL; ``None`` for the first.
        error: the standard error of that gain over the samples, paired; ``None`` for the first.
    """

    name: str
    nll: float
    top1: float
    latency: float
    gain: float | None = None
    error: float | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Who is to teach (``steps``, in the order they were taken, perhaps nobody), and why each is in or out."""

    steps: tuple[Step, ...]
    reasons: Mapping[str, str]

    @property
    def chosen(self) -> tuple[str, ...]:
        """Their names, the best first."""
        return tuple(step.name for step in self.steps)


def select(
    candidates: Mapping[str, Candidate], target: Tensor, *, budget: float, likeness: Sequence[Likeness] = (),
    rules: Rules = Rules(),
) -> Selection:  # fmt: skip
    """Take the candidate with the best NLL, then each that lowers the ensemble's by more than chance, while time lasts.

    Arguments:
        candidates: by name, all of the same samples and classes.
        target: ``[n]`` class numbers; samples with −100 have no label and are left out.
        budget: the largest latency of the ensemble, the sum of its members', in ms a picture; ``math.inf`` for none.
        likeness: how alike pairs of candidates are; one that is too alike to a teacher already taken is left out.
        rules: the margin, and what too alike means.

    A candidate that is closer to the student than the margin is taken only where no other fits the budget: the best of
    those, alone. One that is not above the student at all has nothing to teach, and is never taken. The gain of another
    teacher has to exceed 1.96 paired standard errors over the samples; equal candidates are decided by latency, then
    by order.

    Raises:
        LimbeckError: no candidate or no label, other samples or classes, or answers that are no probabilities.

    >>> sure, right = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([0, 1])
    >>> big = Candidate(probabilities=sure, margin=9.0, latency=3.0)
    >>> near = Candidate(probabilities=sure.lerp(torch.tensor(0.5), 0.5), margin=1.3, latency=1.0)
    >>> found = select({"near": near, "big": big}, right, budget=5.0)
    >>> found.chosen, found.reasons["near"]
    (('big',), 'too close to the student: +1.3 points, the rule is 5')
    """
    rows, truth = _rows(candidates, target)
    able = [name for name, one in candidates.items() if one.margin > 0 and one.latency <= budget]
    fit = [name for name in able if not too_close(candidates[name].margin, rules)]
    search = _Search(candidates, rows, truth, budget, likeness, rules)
    # Nothing else is left: then the best that breaks the margin teaches, alone.
    names = search.forward(fit) if fit else search.forward(able)[:1]
    steps = search.steps(names)
    reasons = {name: search.why(name, names, fit) for name in candidates}
    return Selection(steps=steps, reasons=reasons)


@final
@dataclass(frozen=True, slots=True)
class _Search:
    """One selection; an ensemble is a list of names."""

    candidates: Mapping[str, Candidate]
    rows: Mapping[str, Tensor]
    truth: Tensor
    budget: float
    likeness: Sequence[Likeness]
    rules: Rules

    def forward(self, names: Sequence[str]) -> list[str]:
        """Greedy forward selection from ``names``."""
        if not names:
            return []
        chosen = [min(names, key=lambda name: (float(self.nll([name]).mean()), self.candidates[name].latency))]
        while True:
            gains = {}
            for name in names:
                if name in chosen or self.alike(name, chosen) or self.latency([*chosen, name]) > self.budget:
                    continue
                gain, error = self.gain(chosen, name)
                if gain > _Z * error:
                    gains[name] = gain
            if not gains:
                return chosen
            chosen.append(max(gains, key=lambda name: (gains[name], -self.candidates[name].latency)))

    def steps(self, names: Sequence[str]) -> tuple[Step, ...]:
        found = []
        for i, name in enumerate(names):
            now = names[: i + 1]
            gain, error = self.gain(names[:i], name) if i else (None, None)
            nll, latency = float(self.nll(now).mean()), self.latency(now)
            found.append(Step(name=name, nll=nll, top1=self.top1(now), latency=latency, gain=gain, error=error))
        return tuple(found)

    def why(self, name: str, chosen: Sequence[str], fit: Sequence[str]) -> str:
        """Why it was taken or left, in a few words."""
        if name in chosen:
            return self._why_kept(name, chosen, fit)
        one, whole = self.candidates[name], milliseconds(self.budget)
        if one.margin <= 0:
            return f"not above the student ({one.margin:+.1f} points): it has nothing to teach"
        if too_close(one.margin, self.rules):
            return f"too close to the student: {against(self.candidates[name].margin, self.rules)}"
        if one.latency > self.budget:
            return f"too slow: {milliseconds(one.latency)} of a budget of {whole}"
        if pair := self.alike(name, chosen):
            other = pair.first if pair.second == name else pair.second
            share = f"{pair.agreement:.1%}".replace("%", " %")
            return f"too alike: agrees with {other} on {share}, CKA {pair.cka:.2f}"
        if self.latency([*chosen, name]) > self.budget:
            left = milliseconds(self.budget - self.latency(chosen))
            return f"too slow beside the others: {milliseconds(one.latency)}, and {left} of {whole} are left"
        gain, error = self.gain(chosen, name)
        verdict = f"{len(self.truth)} samples cannot tell that from nothing" if gain > -_Z * error else "worse with it"
        return f"left out: {self._gained(chosen, name)}; {verdict}"

    def _why_kept(self, name: str, chosen: Sequence[str], fit: Sequence[str]) -> str:
        if name not in fit:
            margin = against(self.candidates[name].margin, self.rules)
            return f"kept though too close to the student: {margin}; nothing else is left"
        before = chosen[: chosen.index(name)]
        if before:
            return f"kept: {self._gained(before, name)}"
        return f"kept first: best alone (NLL {float(self.nll([name]).mean()):.3f})"

    def nll(self, names: Sequence[str]) -> Tensor:
        """Negative log-likelihood of the mean of probabilities, ``[n]`` nats."""
        right = self._mean(names).gather(1, self.truth[:, None])[:, 0]
        return -right.clamp(min=_FLOOR).log()

    def top1(self, names: Sequence[str]) -> float:
        return float((self._mean(names).argmax(dim=1) == self.truth).double().mean())

    def latency(self, names: Sequence[str]) -> float:
        return math.fsum(self.candidates[name].latency for name in names)

    def gain(self, chosen: Sequence[str], name: str) -> tuple[float, float]:
        """By how many nats ``name`` lowers the NLL of ``chosen``, and the standard error of that."""
        each = self.nll(chosen) - self.nll([*chosen, name])
        if len(each) < 2:
            return float(each.mean()), math.inf
        return float(each.mean()), float(each.std()) / math.sqrt(len(each))

    def alike(self, name: str, chosen: Sequence[str]) -> Likeness | None:
        """The first pair of ``name`` with one of ``chosen`` that is too alike."""
        for pair in self.likeness:
            both = {pair.first, pair.second}
            if name in both and both - {name} <= set(chosen) and too_alike(pair, self.rules):
                return pair
        return None

    def _mean(self, names: Sequence[str]) -> Tensor:
        return torch.stack([self.rows[name] for name in names]).mean(dim=0)

    def _gained(self, chosen: Sequence[str], name: str) -> str:
        gain, error = self.gain(chosen, name)
        points = 100 * (self.top1([*chosen, name]) - self.top1(chosen))
        spread = f" ± {_Z * error:.3f}" if math.isfinite(error) else ""
        return f"{points:+.1f} points, NLL {-gain:+.3f}{spread}, for {milliseconds(self.candidates[name].latency)} more"


def _rows(candidates: Mapping[str, Candidate], target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Checked probabilities of the labelled samples in float64, and their truth."""
    if not candidates:
        raise LimbeckError("there is no candidate to choose from: give at least one")
    classes = {name: one.probabilities.shape[-1] for name, one in candidates.items()}
    if len(set(classes.values())) > 1:
        raise LimbeckError(
            f"the candidates know different numbers of classes ({', '.join(f'{n}: {c}' for n, c in classes.items())}): "
            "choose among networks for the same classes"
        )
    known = (target != _UNLABELLED).cpu()
    if target.ndim != 1 or not bool(known.any()):
        raise LimbeckError("no validation sample has a label, so nobody can be chosen by it: give labelled ones")
    truth = target.cpu()[known].long()
    rows = {name: _checked(name, one, len(target))[known] for name, one in candidates.items()}
    if int(truth.min()) < 0 or int(truth.max()) >= max(classes.values()):
        raise LimbeckError(
            f"the target has classes from {int(truth.min())} to {int(truth.max())}, and the candidates know "
            f"{max(classes.values())}, counted from 0"
        )
    return rows, truth


def _checked(name: str, one: Candidate, samples: int) -> Tensor:
    said = one.probabilities.detach().cpu().double()
    if said.ndim != 2 or len(said) != samples:
        raise LimbeckError(
            f"the candidate {name!r} answers with the shape {list(said.shape)}, and there are {samples} samples: give "
            "[samples, classes]"
        )
    if not bool(said.isfinite().all()):
        raise LimbeckError(f"the candidate {name!r} gives probabilities that are NaN or infinite: look at its weights")
    if bool((said < 0).any()) or not bool(((said.sum(dim=1) - 1).abs() < 1e-3).all()):
        raise LimbeckError(f"the candidate {name!r} gives rows that are no probabilities: each is 0..1, and sums to 1")
    if not (math.isfinite(one.margin) and math.isfinite(one.latency) and one.latency >= 0):
        raise LimbeckError(
            f"the candidate {name!r} has the margin {one.margin} and the latency {one.latency}: both are finite numbers"
        )
    return said
