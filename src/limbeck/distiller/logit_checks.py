"""Checks that networks return logits, and no probabilities, and that losses fit their heads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Loss, ReadsTeacherModules, loss_attribute
from limbeck.losses._boxes import have_equal_anchors
from limbeck.losses.temperature.policy import uses_softmax

__all__ = ["are_probabilities", "refuse_softmax", "require_equal_anchors", "require_logits"]


def are_probabilities(logits: Tensor) -> bool:
    """Whether all rows ``[rows, classes]`` are probabilities: not negative, with a sum of 1, and not all one-hot.

    >>> are_probabilities(torch.tensor([[0.2, 0.8]])), are_probabilities(torch.tensor([[0.2, 0.9], [0.5, 0.5]]))
    (True, False)
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or not logits.numel():
        return False
    values = logits.detach().float()
    tolerance = 1e-3 if logits.dtype in (torch.float32, torch.float64) else 2e-2
    is_distribution = (values >= 0).all() & ((values.sum(dim=1) - 1).abs() < tolerance).all()
    return bool(is_distribution & ((values > 0) & (values < 1)).any())


def refuse_softmax(losses: Mapping[str, Loss], ensemble: object) -> None:
    """Refuse losses, temperatures and ensembles with a softmax over classes, for a head with a sigmoid for each class.

    Args:
        losses: by name.
        ensemble: how several teachers are combined; ``None`` with fewer than two.

    Raises:
        LimbeckError: names the loss and those that fit.
    """
    for name, loss in losses.items():
        if loss_attribute(loss, "uses_softmax"):
            raise LimbeckError(
                f"the loss {name!r} ({type(loss).__name__}) needs a softmax over classes, and the head has a sigmoid "
                "for each class: use BinaryKDLoss or QualityFocalLoss"
            )
        if loss_attribute(loss, "uses_temperature") and uses_softmax(policy := getattr(loss, "temperature", None)):
            raise LimbeckError(
                f"the temperature {type(policy).__name__} of the loss {name!r} needs a softmax over classes, and the "
                "head has a sigmoid for each class: set a number, a schedule or Learned()"
            )
    if getattr(ensemble, "uses_softmax", False):
        raise LimbeckError(
            f"the ensemble {type(ensemble).__name__} averages a softmax over classes, and the heads have a sigmoid for "
            "each class: use mean_logits"
        )


def require_equal_anchors(losses: Mapping[str, Loss], context: LossContext) -> None:
    """Refuse losses that compare rows of student and teacher, for detectors with as many rows of other anchors.

    Raises:
        LimbeckError: names the loss.
    """
    for name, loss in losses.items():
        teacher = getattr(loss, "teacher", None)
        outputs = context.teacher if teacher is None else context.teachers.get(teacher)
        compares_rows = loss_attribute(loss, "knowledge") == "response" and not isinstance(loss, ReadsTeacherModules)
        if outputs is not None and compares_rows and not have_equal_anchors(context.student, outputs):
            raise LimbeckError(
                f"the loss {name!r} ({type(loss).__name__}) compares rows, whose anchors must be equal, and those of "
                "student and teacher differ: use heads of the same levels and anchors, or a loss on features"
            )


def require_logits(outputs: Mapping[str, Outputs]) -> None:
    """Refuse probabilities in place of logits; their softmax would be almost uniform.

    Raises:
        LimbeckError: names the network.
    """
    for name, output in outputs.items():
        if output.logits is not None and are_probabilities(output.logits):
            network = "the student" if name == "student" else f"the teacher {name!r}"
            more = "" if name == "student" else ", or set output_type: probabilities of an ONNX file or a callable"
            raise LimbeckError(
                f"{network} must return logits, got probabilities (no row is negative, and each sums to 1): remove "
                f"its softmax{more}"
            )
