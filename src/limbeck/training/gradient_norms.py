"""How hard each term pulls at the student: the norm of its gradient, and its ratio to that of the hard loss.

A loss of 0.01 may move a network more than one of 10: what decides is the gradient. The figure that explains most
"distillation does not help" is the ratio of each term's gradient to that of the loss with the truth.

It is measured on a batch that is trained on anyway, before its backward pass: each term with its weight, over all the
student's weights. That costs about one backward pass a term, so it is done at the end of an epoch only, and of these
not oftener than every 200 steps, which is less than a hundredth of the time; the last epoch is always looked at.
Nothing of the training depends on it. With several processes it is the first one's share of the batch. A student in
shares (FSDP) has no whole gradient and is not looked at; neither is one whose graph can be gone through once only
(``torch.compile``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.core.protocols import Loss, loss_attribute
from limbeck.distiller.distiller import Distiller
from limbeck.distiller.objective import LossOutput

__all__ = ["compute_gradient_metrics", "compute_gradient_norms", "find_supervised_loss", "is_measurement_step"]

_MIN_STEPS_BETWEEN = 200


def is_measurement_step(step: int, *, steps_per_epoch: int, last_step: int) -> bool:
    """Whether the step number ``step``, counted from 1, is one to look at.

    >>> [step for step in range(1, 301) if is_measurement_step(step, steps_per_epoch=50, last_step=270)]
    [50, 250, 270]
    """
    if step == last_step:
        return True
    epoch, remainder = divmod(step, steps_per_epoch)
    interval = -(-_MIN_STEPS_BETWEEN // steps_per_epoch)
    return not remainder and (epoch - 1) % interval == 0


def compute_gradient_norms(losses: Mapping[str, Tensor], weights: list[Tensor]) -> dict[str, float]:
    """The Euclidean norm of each term's gradient over all ``weights``; the graph stays as it was.

    >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> compute_gradient_norms({"a": w.square().sum(), "b": w[0] * 0.5, "c": torch.tensor(1.0)}, [w])
    {'a': 10.0, 'b': 0.5, 'c': 0.0}
    """
    norms = {}
    for name, loss in losses.items():
        norm = torch.zeros((), dtype=torch.float64)
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
            squares = [gradient.detach().double().square().sum() for gradient in gradients if gradient is not None]
            norm = torch.stack(squares).sum().sqrt() if squares else norm
        norms[name] = float(norm)
    return norms


def compute_gradient_metrics(distiller: Distiller, loss: LossOutput) -> dict[str, float]:
    """``grad_norm/<loss>``, ``grad_norm_ratio/<loss>`` to the supervised loss, ``teacher_entropy/<loss>``, as far as
    there are any.

    ``teacher_entropy`` is the entropy of the teacher's outputs at the loss's temperature as a share of a guess's, from
    0 to 1.
    """
    metrics = {
        f"teacher_entropy/{name}": float(torch.stack(list(entropies)).mean())
        for name, entropies in loss.teacher_entropy.items()
    }
    weights: list[Any] = [weight for weight in distiller.student.parameters() if weight.requires_grad]
    if len(loss.by_loss_with_grad) < 2 or not weights:
        return metrics
    try:
        norms = compute_gradient_norms(loss.by_loss_with_grad, weights)
    except RuntimeError:
        return metrics
    metrics |= {f"grad_norm/{name}": norm for name, norm in norms.items()}
    supervised = find_supervised_loss(distiller.objective.losses)
    if supervised is not None and norms[supervised] > 0:
        metrics |= {
            f"grad_norm_ratio/{name}": norm / norms[supervised] for name, norm in norms.items() if name != supervised
        }
    return metrics


def find_supervised_loss(losses: Mapping[str, Loss]) -> str | None:
    """The name of the first loss that compares the student with the target only; ``None`` where there is none."""
    return next((name for name, loss in losses.items() if loss_attribute(loss, "supervised")), None)
