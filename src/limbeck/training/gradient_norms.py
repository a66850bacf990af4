"""Gradient norm of each loss, and its ratio to that of the supervised loss.

The gradient decides how much a loss changes the network, not the value of the loss: a low ratio of a distillation loss
is the most frequent reason why distillation does not help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from limbeck.core.protocols import Loss, loss_attribute
from limbeck.distiller.distiller import Distiller
from limbeck.distiller.objective import LossOutput
from limbeck.training.callbacks import Callback, MetricsRow

__all__ = ["GradientNorms", "compute_gradient_metrics", "find_supervised_loss", "is_measurement_step"]

_MIN_STEPS_BETWEEN = 200


@final
class GradientNorms(Callback):
    """Adds :func:`compute_gradient_metrics` of one training batch to the row of an epoch.

    It costs one backward pass per loss, so it runs at most every 200 steps, and in the last. It does not change the
    training. With several processes the metrics are those of the local batch.
    """

    def __init__(self, distiller: Distiller, *, steps_per_epoch: int, last_step: int) -> None:
        self._distiller, self._steps_per_epoch, self._last_step = distiller, steps_per_epoch, last_step
        self._objective = distiller.objective
        self._metrics: dict[str, float] = {}

    def on_step_start(self, step: int) -> None:
        if is_measurement_step(step, steps_per_epoch=self._steps_per_epoch, last_step=self._last_step):
            self._objective.collect_diagnostics = True

    def on_loss(self, step: int, loss: LossOutput) -> None:
        if self._objective.collect_diagnostics:
            self._objective.collect_diagnostics = False
            self._metrics = compute_gradient_metrics(self._distiller, loss)

    def on_epoch_end(self, rows: Sequence[MetricsRow]) -> None:
        rows[-1].update(self._metrics)
        self._metrics = {}

    def on_train_end(self) -> None:
        self._objective.collect_diagnostics = False


def is_measurement_step(step: int, *, steps_per_epoch: int, last_step: int) -> bool:
    """Whether gradient norms are measured in ``step``, counted from 1: at the end of an epoch, at most every 200 steps.

    >>> [step for step in range(1, 301) if is_measurement_step(step, steps_per_epoch=50, last_step=270)]
    [50, 250, 270]
    """
    if step == last_step:
        return True
    epoch, remainder = divmod(step, steps_per_epoch)
    return not remainder and (epoch - 1) % -(-_MIN_STEPS_BETWEEN // steps_per_epoch) == 0


def compute_gradient_metrics(distiller: Distiller, loss: LossOutput) -> dict[str, float]:
    """Compute the gradient metrics of one batch before its backward pass.

    Returns:
        ``grad_norm/<loss>`` of the weighted loss, ``grad_norm_ratio/<loss>`` to the supervised loss, and
        ``teacher_entropy/<loss>``: the entropy of the teacher's softmax at the loss's temperature, divided by that of
        the uniform distribution. There are no norms with a single loss, nor if the graph can be used only once
        (``torch.compile``).
    """
    metrics = {
        f"teacher_entropy/{name}": float(torch.stack(list(entropies)).mean())
        for name, entropies in loss.teacher_entropy.items()
    }
    weights: list[Any] = [weight for weight in distiller.student.parameters() if weight.requires_grad]
    if len(loss.by_loss_with_grad) < 2 or not weights:
        return metrics
    try:
        norms = {name: _gradient_norm(value, weights) for name, value in loss.by_loss_with_grad.items()}
    except RuntimeError:
        return metrics
    metrics |= {f"grad_norm/{name}": norm for name, norm in norms.items()}
    supervised = find_supervised_loss(distiller.objective.losses)
    if supervised is not None and norms[supervised] > 0:
        metrics |= {
            f"grad_norm_ratio/{name}": norm / norms[supervised] for name, norm in norms.items() if name != supervised
        }
    return metrics


def _gradient_norm(loss: Tensor, weights: Sequence[Tensor]) -> float:
    """The Euclidean norm of the gradient over all ``weights``; keeps the graph."""
    if not loss.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    squares = [gradient.detach().double().square().sum() for gradient in gradients if gradient is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def find_supervised_loss(losses: Mapping[str, Loss]) -> str | None:
    """The name of the first loss whose class is ``supervised``, or ``None``."""
    return next((name for name, loss in losses.items() if loss_attribute(loss, "supervised")), None)
