"""An objective: a named, weighted sum of terms, which prints itself as a formula."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, nearest
from limbeck.core.loss_context import Exchange
from limbeck.core.protocols import Preparable, Term
from limbeck.core.schedules import Schedule, at
from limbeck.distiller.gather_context import gathered
from limbeck.distiller.loss_output import Loss
from limbeck.distiller.temperature_checks import Temperatures, learning
from limbeck.losses.temperature import listening
from limbeck.losses.weighting.loss_weighting import Balance

__all__ = ["Loss", "Objective"]


@final
class Objective(nn.Module):
    """Σ weight · term.

    Arguments:
        terms: by name; a term is any callable from an exchange to a scalar, and one that learns is an ``nn.Module``.
        weights: by the same names, a number or a schedule; 1 where none is given. A balance here is one with weights 1.
        gather: names of terms that get the exchange of all processes together
            (:func:`~limbeck.distiller.gather_context`):
            for terms that relate samples, or whose mean is over a part of the rows. Nothing changes with one process.
        balance: moves the weights while training, on top of those given, see
            :mod:`limbeck.losses.weighting.loss_weighting`.

    A term whose ``tau`` keeps state lends it to ``learned``, where terms that learn are: both are trained, moved and
    saved with the objective. ``look`` asks for figures that are too dear for every step, see :class:`Loss`.

    >>> from limbeck.losses import CrossEntropy, SoftTarget
    >>> print(Objective({"truth": CrossEntropy(), "soft": SoftTarget(tau=4.0)}, {"truth": 0.1, "soft": 0.9}))
    0.1·truth + 0.9·soft, with truth = CrossEntropy(label_smoothing=0.0), soft = SoftTarget(tau=4.0, teacher=None)
    """

    def __init__(
        self, terms: Mapping[str, Term], weights: Mapping[str, float | Schedule] | Balance | None = None, *,
        gather: Collection[str] = (), balance: Balance | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if isinstance(weights, Balance):
            if balance is not None:
                raise LimbeckError(f"two balances were given, as weights and as balance: {weights!r} and {balance!r}")
            weights, balance = None, weights
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
            if learning(term) and (not name or "." in name or hasattr(nn.ModuleDict(), name)):
                raise LimbeckError(f"a term that learns cannot be called {name!r}, which PyTorch keeps: choose another")
        self.terms = dict(terms)
        self.gather = tuple(name for name in terms if name in gather)
        self.weights: dict[str, float | Schedule] = {name: (weights or {}).get(name, 1.0) for name in terms}
        self.temperatures = Temperatures(terms)
        self.learned = nn.ModuleDict({name: part for name, term in terms.items() for part in learning(term)[:1]})
        self.balance = balance
        if balance is not None:
            balance.bind(list(terms))
        self.look = False
        self._ready = not self._unshaped()
        _refuse_shared_state(terms)
        self._earlier: dict[str, dict[str, Tensor]] = {}

    @property
    def ready(self) -> bool:
        """Whether every term that learns has been shaped."""
        return self._ready

    def prepare(self, exchange: Exchange) -> None:
        """Let each term that learns shape its parts by ``exchange``; once."""
        if not self._ready:
            for part in self._unshaped():
                part.prepare(exchange)
            self._ready = True
            self._take_over()

    def follow(self, earlier: Objective) -> Self:
        """Go on with what the terms of ``earlier`` learned, the objective of a stage before this one.

        A term goes on where it has the name, the class and the settings (as ``extra_repr`` prints them) of an earlier
        one, and what it learns has the same shapes; any other begins afresh. A temperature with state goes by its term,
        and a balance goes on where it has the same settings and the same terms.

        >>> first, second = (Objective({"fit": nn.Linear(2, 1)}) for _ in range(2))
        >>> torch.equal(first.terms["fit"].weight, second.follow(first).terms["fit"].weight)
        True
        """
        for name, term in self.learned.items():
            other = dict(earlier.learned.items()).get(name)
            if other is not None and type(other) is type(term) and other.extra_repr() == term.extra_repr():
                self._earlier[name] = {key: tensor.detach().clone() for key, tensor in other.state_dict().items()}
        balances: list[Any] = [self.balance, earlier.balance]
        if list(self.terms) == list(earlier.terms) and repr(balances[0]) == repr(balances[1]) != repr(None):
            balances[0].load_state_dict(balances[1].state_dict())
        if self._ready:
            self._take_over()
        return self

    def _unshaped(self) -> list[Preparable]:
        """What is shaped by the first exchange: terms, and temperatures of terms."""
        parts = {id(part): part for term in self.terms.values() for part in (term, *learning(term))}
        return [part for part in parts.values() if isinstance(part, Preparable)]

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
            values, taus, flat = self._values(exchange, gathered(exchange) if self.gather else exchange)
            given = {name: at(weight, exchange.progress) for name, weight in self.weights.items()}
            weights: dict[str, float | Tensor] = {**given}
            if self.balance is None:
                # A small network's step feels each operation, and most objectives have a weight of 1 in them.
                terms = {name: value if given[name] == 1.0 else given[name] * value for name, value in values.items()}
            else:
                terms, factors = self.balance(values, given)
                weights = {name: weight * factors[i] for i, (name, weight) in enumerate(given.items())}
        total = None
        for part in terms.values():
            total = part if total is None else total + part
        assert total is not None
        logits = exchange.student.logits
        return Loss(
            total, {name: part.detach() for name, part in terms.items()}, weights,
            None if logits is None else logits.detach(), exchange.target, terms, taus, flat,
        )  # fmt: skip

    def _values(
        self, exchange: Exchange, whole: Exchange
    ) -> tuple[dict[str, Tensor], Mapping[str, Sequence[float | Tensor]], Mapping[str, Sequence[Tensor]]]:
        """Each term's value, its temperature, and where it was asked for how flat that makes the teacher's answer."""
        heard_of = self.terms if self.look else self.temperatures.policies
        taus = self.temperatures.plain(exchange.progress)
        values: dict[str, Tensor] = {}
        flat: dict[str, Sequence[Tensor]] = {}
        for name, term in self.terms.items():
            given = whole if name in self.gather else exchange
            if name not in heard_of:
                values[name] = _scalar(name, term(given))
                continue
            with listening(flatness=self.look) as heard:
                values[name] = _scalar(name, term(given))
            if heard.tau:
                taus = {**taus, name: heard.tau}
            if heard.flat:
                flat[name] = heard.flat
        return values, taus, flat

    def __str__(self) -> str:
        formula = " + ".join(
            f"{weight:g}·{name}" if not callable(weight) else f"({weight})·{name}"
            for name, weight in self.weights.items()
        )
        together = f"; gathered: {', '.join(self.gather)}" if self.gather else ""
        balanced = f"; balanced by {self.balance!r}" if self.balance is not None else ""
        terms = ", ".join(f"{name} = {term!r}" for name, term in self.terms.items())
        return f"{formula}, with {terms}{together}{balanced}"


def _device(exchange: Exchange) -> str:
    said = exchange.student
    if said.logits is not None:
        return "cpu" if said.logits.is_cpu else said.logits.device.type
    tensors = (said.maps, said.embedding, *said.taps.values())
    return next((tensor.device.type for tensor in tensors if tensor is not None), "cpu")


def _refuse_shared_state(terms: Mapping[str, Term]) -> None:
    """Two terms that share one temperature would both move it."""
    owner: dict[int, str] = {}
    for name, term in terms.items():
        for part in learning(term):
            if (other := owner.setdefault(id(part), name)) != name:
                raise LimbeckError(
                    f"the terms {other!r} and {name!r} share one {type(part).__name__}, which keeps state: give each "
                    "its own"
                )


def _scalar(name: str, value: Tensor) -> Tensor:
    if value.ndim:
        raise LimbeckError(f"the term {name!r} gave a tensor of shape {list(value.shape)}, and a loss is one number")
    return value
