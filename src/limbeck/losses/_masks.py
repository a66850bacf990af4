"""Masks of segmentation in losses: their size on features, which pixels are rows, and class boundaries."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs


def require_mask(context: LossContext, teacher: str | None = None) -> Tensor:
    """``sample_targets["mask"]``, ``[batch, height, width]``, of the samples valid for that teacher."""
    mask, valid = context.sample_target("mask"), context.teacher_outputs(teacher).valid
    return mask if valid is None else mask[valid.to(mask.device)]


def resize_mask(mask: Tensor, size: tuple[int, int], *, batch: int) -> Tensor:
    """The mask at ``size`` by nearest neighbor, as ``F.interpolate(mode="nearest")``, ``[batch, height, width]``.

    >>> resize_mask(torch.tensor([[[0, 1, 2, 3]]]), (1, 2), batch=1)
    tensor([[[0, 2]]])
    """
    if mask.ndim != 3 or mask.is_floating_point() or len(mask) != batch:
        raise LimbeckError(
            f"the mask must be class indices [batch, height, width] of {batch} images, got {mask.dtype} "
            f"{list(mask.shape)}: define it in sample_targets(batch) of the task"
        )
    rows, columns = (
        torch.arange(new, device=mask.device) * old // new for old, new in zip(mask.shape[1:], size, strict=True)
    )
    return mask[:, rows][:, :, columns]


def find_rows(mask: Tensor, outputs: Outputs) -> Tensor:
    """Booleans ``[batch, height, width]``, true for the pixels that are rows of ``outputs``.

    Those of a class, and all of an image without any class, where it has rows at all.

    >>> mask, outputs = torch.tensor([[[1, -100]], [[-100, -100]]]), Outputs(row_to_sample=torch.tensor([0, 1, 1]))
    >>> find_rows(mask, outputs).tolist()
    [[[True, False]], [[True, True]]]
    """
    has_class, num_rows = mask >= 0, 0 if outputs.logits is None else len(outputs.logits)
    if outputs.row_to_sample is not None:
        num_rows = len(outputs.row_to_sample)
        has_rows = torch.bincount(outputs.row_to_sample, minlength=len(mask)) > 0
        is_unlabeled = ~has_class.flatten(1).any(dim=1) & has_rows.to(mask.device)
        has_class = has_class | is_unlabeled[:, None, None]
    if (num_pixels := int(has_class.sum())) != num_rows:
        raise LimbeckError(
            f"rows must be the pixels of the mask that have a class, {num_pixels}, got {num_rows}: use the task "
            "Segmentation"
        )
    return has_class


def is_boundary(mask: Tensor, *, radius: int) -> Tensor:
    """Booleans, true where the window of ``2·radius + 1`` pixels around a pixel has two classes.

    >>> is_boundary(torch.tensor([[[0, 0, 0, 1, 1, -100]]]), radius=1).tolist()
    [[[False, False, True, True, False, False]]]
    """
    if not mask.numel():
        return mask >= 0
    window, has_class, classes = 2 * radius + 1, mask >= 0, mask.float()
    highest, lowest = (
        sign * F.max_pool2d((sign * classes).masked_fill(~has_class, -torch.inf), window, stride=1, padding=radius)
        for sign in (1, -1)
    )
    return highest > lowest
