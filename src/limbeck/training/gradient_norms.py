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

from limbeck.core.protocols import Term
from limbeck.distiller.distiller import Distiller
from limbeck.distiller.objective import Loss
from limbeck.losses import CrossEntropy

__all__ = ["due", "hard", "looked", "pulls"]

_LEAST_STEPS = 200


def due(step: int, *, steps_per_epoch: int, stop: int) -> bool:
    """Whether the step number ``step``, counted from 1, is one to look at.

    >>> [step for step in range(1, 301) if due(step, steps_per_epoch=50, stop=270)]
    [50, 250, 270]
    """
    if step == stop:
        return True
    epoch, left = divmod(step, steps_per_epoch)
    every = -(-_LEAST_STEPS // steps_per_epoch)
    return not left and (epoch - 1) % every == 0


def pulls(terms: Mapping[str, Tensor], weights: list[Tensor]) -> dict[str, float]:
    """The Euclidean norm of each term's gradient over all ``weights``; the graph stays as it was.

    >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> pulls({"a": w.square().sum(), "b": w[0] * 0.5, "c": torch.tensor(1.0)}, [w])
    {'a': 10.0, 'b': 0.5, 'c': 0.0}
    """
    found = {}
    for name, term in terms.items():
        norm = torch.zeros((), dtype=torch.float64)
        if term.requires_grad:
            gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
            squares = [gradient.detach().double().square().sum() for gradient in gradients if gradient is not None]
            norm = torch.stack(squares).sum().sqrt() if squares else norm
        found[name] = float(norm)
    return found


def looked(distiller: Distiller, loss: Loss) -> dict[str, float]:
    """``gradient/<term>``, ``gradient_ratio/<term>`` to the hard loss, ``flatness/<term>``, as far as there are any.

    Flatness is the entropy of the teacher's answer at the term's temperature as a share of a guess's, from 0 to 1.
    """
    figures = {f"flatness/{name}": float(torch.stack(list(flat)).mean()) for name, flat in loss.flat.items()}
    weights: list[Any] = [weight for weight in distiller.student.parameters() if weight.requires_grad]
    if len(loss.terms) < 2 or not weights:
        return figures
    try:
        norms = pulls(loss.terms, weights)
    except RuntimeError:
        return figures
    figures |= {f"gradient/{name}": norm for name, norm in norms.items()}
    truth = hard(distiller.objective.terms)
    if truth is not None and norms[truth] > 0:
        figures |= {f"gradient_ratio/{name}": norm / norms[truth] for name, norm in norms.items() if name != truth}
    return figures


def hard(terms: Mapping[str, Term]) -> str | None:
    """The name of the term that compares with the truth: a cross-entropy, or one that is called ``truth``."""
    return next(
        (n for n, term in terms.items() if isinstance(term, CrossEntropy)), "truth" if "truth" in terms else None
    )
