"""The losses of a detector on its target boxes, as the detector computes them.

Of RetinaNet the focal loss and the L1 loss of box offsets (Lin et al., 2017, https://arxiv.org/abs/1708.02002); of FCOS
focal, generalized IoU and centerness loss (https://arxiv.org/abs/1904.01355); of SSD cross-entropy with hard negative
mining and smooth L1 (https://arxiv.org/abs/1512.02325); of Faster R-CNN those of both stages
(https://arxiv.org/abs/1506.01497).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss

__all__ = ["DetectionLoss", "detection_loss"]

_PREFIX = "loss_"


def detection_loss(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of the scalars named ``loss_…``, those of a detector on its target boxes.

    >>> detection_loss({"loss_classification": torch.tensor(1.0), "loss_bbox_regression": torch.tensor(0.5)})
    tensor(1.5000)
    """
    parts = [value.float() for name, value in losses.items() if name.startswith(_PREFIX)]
    if not parts:
        raise LimbeckError(
            "DetectionLoss needs the losses of the student on its boxes, got none: train a limbeck.models.Detector "
            "with the task Detection on batches with boxes, without peers"
        )
    return torch.stack(parts).sum()


@final
@dataclass(frozen=True)
class DetectionLoss(Loss):
    """:func:`detection_loss` of the student, normalized as torchvision does: by anchors matched with boxes.

    Read from ``extra`` of the student's outputs, where :class:`limbeck.tasks.Detection` puts the losses that
    torchvision computes with the network's own matching of anchors and boxes. Images without annotations count
    nowhere.
    """

    knowledge: ClassVar = "label"
    paper: ClassVar = "https://arxiv.org/abs/1708.02002"
    supervised: ClassVar = True
    needs_target: ClassVar = True
    needs_teacher: ClassVar = False
    fn: ClassVar = staticmethod(detection_loss)

    def __call__(self, context: LossContext) -> Tensor:
        return detection_loss(context.student.extra)
