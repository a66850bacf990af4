"""An objective: a named, weighted sum of terms, which prints itself as a formula."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import NamedTuple, Self, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, nearest
from limbeck.core.exchange import Exchange
from limbeck.core.protocols import Preparable, Term
from limbeck.core.schedule import Schedule, at
from limbeck.objective.gathered import gathered

__all__ = ["Loss", "Objective"]


class Loss(NamedTuple):
    """The loss of one batch.

    Attributes:
        total: the number to call ``backward`` on.
        parts: each term's share of it, weight included, without gradients; they sum to ``total``.
        weights: the weight each term had.
        logits: the student's logits ``[rows, classes]``, without gradients, for whoever counts right answers;
            ``None`` where the task has none.
        target: the truth they were compared with, or ``None``.
    """

    total: Tensor
    parts: dict[str, Tensor]
    weights: dict[str, float]
    logits: Tensor | None = None
    target: Tensor | None = None


@final
class Objective(nn.Module):
    """Σ weight · term.

    Arguments:
        terms: by name; a term is any callable from an exchange to a scalar, and one that learns is an ``nn.Module``.
        weights: by the same names, a number or a schedule; 1 where none is given.
        gather: names of terms that get the exchange of all processes together (:func:`~limbeck.objective.gathered`):
            for terms that relate samples, or whose mean is over a part of the rows. Nothing changes with one process.

    >>> from limbeck.terms import CrossEntropy, SoftTarget
    >>> print(Objective({"truth": CrossEntropy(), "soft": SoftTarget(tau=4.0)}, {"truth": 0.1, "soft": 0.9}))
    0.1·truth + 0.9·soft, with truth = CrossEntropy(label_smoothing=0.0), soft = SoftTarget(tau=4.0, teacher=None)
    """

    def __init__(
        self, terms: Mapping[str, Term], weights: Mapping[str, float | Schedule] | None = None, *,
        gather: Collection[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        if not terms:
            raise LimbeckError("an objective needs at least one term, such as {'soft': SoftTarget()}")
        for name in weights or {}:
            if name not in terms:
                raise LimbeckError(f"the weight {name!r} belongs to no term; the terms are: {nearest(name, terms)}")
        for name in gather:
            if name not in terms:
                raise LimbeckError(f"gather names {name!r}, and no term is; the terms are: {nearest(name, terms)}")
        for name, term in terms.items():
            if isinstance(term, type) or not callable(term):
                raise LimbeckError(f"the term {name!r} is {term!r}, and a term is an object such as SoftTarget()")
            if isinstance(term, nn.Module) and (not name or "." in name or hasattr(nn.ModuleDict(), name)):
                raise LimbeckError(f"a term that learns cannot be called {name!r}, which PyTorch keeps: choose another")
        self.terms = dict(terms)
        self.gather = tuple(name for name in terms if name in gather)
        self.weights: dict[str, float | Schedule] = {name: (weights or {}).get(name, 1.0) for name in terms}
        self.learned = nn.ModuleDict({name: term for name, term in terms.items() if isinstance(term, nn.Module)})
        self._ready = not any(isinstance(term, Preparable) for term in terms.values())
        self._earlier: dict[str, dict[str, Tensor]] = {}

    @property
    def ready(self) -> bool:
        """Whether every term that learns has been shaped."""
        return self._ready

    def prepare(self, exchange: Exchange) -> None:
        """Let each term that learns shape its parts by ``exchange``; once."""
        if not self._ready:
            for term in self.terms.values():
                if isinstance(term, Preparable):
                    term.prepare(exchange)
            self._ready = True
            self._take_over()

    def follow(self, earlier: Objective) -> Self:
        """Go on with what the terms of ``earlier`` learned, the objective of a stage before this one.

        A term goes on where it has the name, the class and the settings (as ``extra_repr`` prints them) of an earlier
        one, and what it learns has the same shapes; any other begins afresh.

        >>> first, second = (Objective({"fit": nn.Linear(2, 1)}) for _ in range(2))
        >>> torch.equal(first.terms["fit"].weight, second.follow(first).terms["fit"].weight)
        True
        """
        for name, term in self.learned.items():
            other = dict(earlier.learned.items()).get(name)
            if other is not None and type(other) is type(term) and other.extra_repr() == term.extra_repr():
                self._earlier[name] = {key: tensor.detach().clone() for key, tensor in other.state_dict().items()}
        if self._ready:
            self._take_over()
        return self

    def _take_over(self) -> None:
        for name, state in self._earlier.items():
            mine = self.learned[name].state_dict()
            if {key: tensor.shape for key, tensor in mine.items()} == {key: t.shape for key, t in state.items()}:
                self.learned[name].load_state_dict(state)
        self._earlier = {}

    def forward(self, exchange: Exchange) -> Loss:
        """The weighted sum for one exchange, outside autocast: terms compute in float32."""
        device = _device(exchange)
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            whole = gathered(exchange) if self.gather else exchange
            values = {
                name: _scalar(name, term(whole if name in self.gather else exchange))
                for name, term in self.terms.items()
            }
        # A small network's step feels each operation, and most objectives have a weight of 1 in them.
        total, parts, weights = None, dict[str, Tensor](), dict[str, float]()
        for name, value in values.items():
            weights[name] = weight = at(self.weights[name], exchange.progress)
            weighted = value if weight == 1.0 else weight * value
            parts[name] = weighted.detach()
            total = weighted if total is None else total + weighted
        assert total is not None
        logits = exchange.student.logits
        return Loss(total, parts, weights, None if logits is None else logits.detach(), exchange.target)

    def __str__(self) -> str:
        formula = " + ".join(
            f"{weight:g}·{name}" if not callable(weight) else f"({weight})·{name}"
            for name, weight in self.weights.items()
        )
        together = f"; gathered: {', '.join(self.gather)}" if self.gather else ""
        return f"{formula}, with " + ", ".join(f"{name} = {term!r}" for name, term in self.terms.items()) + together


def _device(exchange: Exchange) -> str:
    said = exchange.student
    if said.logits is not None:
        return "cpu" if said.logits.is_cpu else said.logits.device.type
    tensors = (said.maps, said.embedding, *said.taps.values())
    return next((tensor.device.type for tensor in tensors if tensor is not None), "cpu")


def _scalar(name: str, value: Tensor) -> Tensor:
    if value.ndim:
        raise LimbeckError(f"the term {name!r} gave a tensor of shape {list(value.shape)}, and a loss is one number")
    return value
