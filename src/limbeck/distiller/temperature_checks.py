"""The temperatures of an objective's terms: which there are, which move, and which a task is not used to."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import Tensor, nn

from limbeck.core.progress import Progress
from limbeck.core.protocols import Term
from limbeck.core.schedules import Schedule, at
from limbeck.losses.temperature import Range, Standardised, Temperature, doubt, span

__all__ = ["Temperatures", "doubts", "learning"]


def learning(term: Term) -> list[nn.Module]:
    """What of a term learns or keeps state: the term itself, and its temperature; the first holds the others.

    >>> from limbeck.losses.temperature import LossAdaptive
    >>> from limbeck.losses import SoftTarget
    >>> learning(SoftTarget()), learning(SoftTarget(tau=LossAdaptive()))
    ([], [LossAdaptive(start=4.0, low=3.0, high=6.0, rate=0.01, margin=0.02)])
    """
    return [part for part in (term, getattr(term, "tau", None)) if isinstance(part, nn.Module)]


def doubts(terms: Mapping[str, Term], task: object) -> list[str]:
    """A sentence for each term whose temperature the task is not used to; none where the task does not say.

    A task says by an attribute ``temperatures``, a :class:`~limbeck.losses.temperature.Range`. The default of a
    method is no cause for doubt, and neither is the base of standardised logits, which have another scale.

    >>> import limbeck
    >>> from limbeck.losses import SoftTarget
    >>> doubts({"soft": SoftTarget(tau=20.0)}, limbeck.tasks.Classification(classes=10))
    ['the temperature of soft is 20, and Classification is used to 3 to 6: keep it only if you mean it']
    """
    usual = getattr(task, "temperatures", None)
    if not isinstance(usual, Range):
        return []
    said = []
    for name, term in terms.items():
        tau: Any = getattr(term, "tau", None)
        setting = _setting(term)
        if setting is None or isinstance(tau, Standardised) or setting.default is tau or setting.default == tau:
            continue
        low, high = span(tau)
        said.append(doubt(low, high, usual=usual, who=name, task=type(task).__name__))
    return [text for text in said if text is not None]


@final
class Temperatures:
    """What is known of the temperatures of ``terms`` before and while they are computed.

    Attributes:
        policies: the names of the terms that have a policy, which is heard at every step.
    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        given: dict[str, Any] = {name: getattr(term, "tau", None) for name, term in terms.items()}
        self.policies = frozenset(name for name, tau in given.items() if _is_policy(tau))
        plain = {name: given[name] for name, term in terms.items() if name not in self.policies and _setting(term)}
        self._constant: dict[str, Sequence[float | Tensor]] = {
            name: (float(tau),) for name, tau in plain.items() if not callable(tau)
        }
        self._scheduled: dict[str, Schedule] = {name: tau for name, tau in plain.items() if callable(tau)}

    def plain(self, progress: Progress) -> Mapping[str, Sequence[float | Tensor]]:
        """The temperatures of the terms without a policy, by name; costs nothing where none moves."""
        if not self._scheduled:
            return self._constant
        return self._constant | {name: (at(tau, progress),) for name, tau in self._scheduled.items()}


def _setting(term: Term) -> inspect.Parameter | None:
    """The parameter ``tau`` of a term on responses: of one whose ``tau`` may be a policy.

    A temperature of another kind (of a contrast between samples, of places in a map) goes by the same letter, and what
    a task is used to says nothing of it; such a term takes no policy.
    """
    try:
        setting = inspect.signature(type(term)).parameters.get("tau")
    except (TypeError, ValueError):
        return None
    return setting if setting is not None and "Temperature" in str(setting.annotation) else None


def _is_policy(tau: Any) -> bool:
    return not isinstance(tau, type) and isinstance(tau, Temperature)
