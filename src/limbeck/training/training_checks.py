"""Warnings and errors of a training that learns nothing: no labels, or a loss that diverges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import loss_attribute
from limbeck.distiller.distiller import Distiller
from limbeck.distiller.objective import LossOutput

__all__ = ["DivergenceCheck", "require_gradient", "require_labels"]

_MAX_RATIO: Final = 1000.0


def require_labels(distiller: Distiller, data: Any) -> None:
    """Refuse losses on the target where no training sample has a label: they would be zero.

    Raises:
        LimbeckError: names the loss.
    """
    if getattr(data, "num_labeled", None) != 0:
        return
    for name, loss in distiller.objective.losses.items():
        if loss_attribute(loss, "supervised"):
            raise LimbeckError(
                f"the loss {name!r} compares with labels, and no training sample has one: label some samples, or "
                "remove the loss"
            )


def require_gradient(total: Tensor, distiller: Distiller) -> None:
    """Refuse a ``total`` of the losses of ``distiller`` that trains nothing.

    Raises:
        LimbeckError: it is complex, or does not depend on the student.
    """
    if not total.requires_grad or total.is_complex():
        got = f"{total.dtype} values" if total.is_complex() else "no gradient"
        raise LimbeckError(
            f"the losses {distiller.objective.formula} must be real and depend on the student, got {got}: compute them "
            "from the student's outputs, without detach() or item()"
        )


@final
class DivergenceCheck:
    """Compares the losses of an epoch, without their weights, with those of the first step."""

    def __init__(self) -> None:
        self._first: dict[str, float] | None = None

    def update(self, loss: LossOutput) -> None:
        """Keep the losses of the first step."""
        if self._first is None:
            self._first = {
                name: _without_weight(value.detach(), loss.weights.get(name, 1.0))
                for name, value in loss.by_loss.items()
            }

    def check(self, metrics: Mapping[str, Any]) -> str | None:
        """A warning if a loss of the epoch is 1,000 times that of the first step (at least 1).

        Args:
            metrics: ``loss/<name>``, ``loss_weight/<name>`` and ``lr``.
        """
        if self._first is None:
            return None
        for name, first in self._first.items():
            last = _without_weight(metrics.get(f"loss/{name}", 0.0), metrics.get(f"loss_weight/{name}", 1.0))
            if abs(last) > _MAX_RATIO * max(abs(first), 1.0):
                return (
                    f"the loss {name!r} rose from {first:.3g} in the first step to {last:.3g} in an epoch, so the "
                    f"training diverges: lower the learning rate (now {metrics.get('lr', 0.0):.3g})"
                )
        return None


def _without_weight(loss: float | Tensor, weight: float | Tensor) -> float:
    return float(loss) / float(weight) if float(weight) else 0.0
