"""Intra-class feature variation distillation (IFVD): cosines of pixels to the prototype of their class.

Wang et al., ECCV 2020, https://www.ecva.net/papers/eccv_2020/papers_ECCV/html/230_ECCV_2020_paper.php. The prototype of
a class is the mean of the features of its pixels in one image, M(p) the cosine of pixel p and its prototype; the loss
is the mean over pixels of (M of the student − M of the teacher)². Prototypes are by image, as in the published code.
Pixels without a class are left out; that code counts them as zeros in the mean. The mask is resized to the map by
nearest neighbor; of maps of unequal size, the larger is average-pooled to the smaller. Only cosines are compared, so
channels may differ and nothing is learned. The published weight is 200.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from torch.nn import functional as F

from limbeck.core.loss_context import LossContext
from limbeck.losses._bases import FeatureLoss
from limbeck.losses._features import match_size, require_maps, unit_pixels
from limbeck.losses._logits import masked_mean
from limbeck.losses._masks import require_mask, resize_mask
from limbeck.losses._ops import upcast


def ifvd_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean over the pixels with a class of the squared difference of their cosines to the prototype of the class.

    Shapes: ``[batch, channels, height, width]`` each, channels and sizes may differ; ``mask``
    ``[batch, height, width]`` class indices of any size, below 0 for no class. Zero without a class.

    >>> import torch
    >>> student = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # 45° from their mean
    >>> ifvd_loss(student, torch.ones(1, 3, 1, 2), torch.tensor([[[7, 7]]]))  # (1 − √½)²
    tensor(0.0858)
    """
    require_maps(student, teacher, method="intra-class feature variation distillation")
    student, teacher = match_size(upcast(student), upcast(teacher).detach())
    mask = resize_mask(mask, (student.shape[2], student.shape[3]), batch=len(student)).to(student.device).flatten(1)
    difference = _prototype_cosines(student, mask) - _prototype_cosines(teacher, mask)
    return masked_mean(difference.square(), mask >= 0)


@final
@dataclass(frozen=True)
class IFVDLoss(FeatureLoss):
    """:func:`ifvd_loss` of one layer of student and teacher, with the mask of ``sample_targets``."""

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://www.ecva.net/papers/eccv_2020/papers_ECCV/html/230_ECCV_2020_paper.php"
    needs_target: ClassVar = True
    fn: ClassVar = staticmethod(ifvd_loss)

    def __call__(self, context: LossContext) -> Tensor:
        student, teacher = context.pair(self.teacher)
        mask = require_mask(context, self.teacher)
        return ifvd_loss(student.feature(self.layer), teacher.feature(self.layer), mask)


def _prototype_cosines(maps: Tensor, mask: Tensor) -> Tensor:
    """``[batch, pixels]``; any number where ``mask`` ``[batch, pixels]`` is below 0."""
    classes = mask.clamp(min=0)
    num_classes = int(classes.max()) + 1 if classes.numel() else 1
    members = F.one_hot(classes, num_classes).to(maps) * (mask >= 0)[:, :, None]
    prototypes = members.mT @ maps.flatten(2).mT / members.sum(dim=1).clamp(min=1)[:, :, None]
    cosines = unit_pixels(maps) @ F.normalize(prototypes, dim=2).mT
    return cosines.gather(2, classes[:, :, None])[:, :, 0]
