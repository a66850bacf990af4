"""Target boxes in losses: those of the samples of a teacher, and which are padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs


@final
@dataclass(frozen=True, slots=True)
class BoxTargets:
    """The boxes of each image.

    Attributes:
        boxes: ``[batch, k, 4]``, left, top, right, bottom in pixels.
        is_box: ``[batch, k]`` booleans, false in the padding.
        is_labeled: ``[batch]`` booleans, false for images without annotations.
        image_size: ``[batch, 2]``, height and width in pixels.
    """

    boxes: Tensor
    is_box: Tensor
    is_labeled: Tensor
    image_size: Tensor


def have_equal_anchors(first: Outputs, second: Outputs) -> bool:
    """Whether equally many rows of two detectors have the same anchors, up to the precision of a cache in float16.

    True where one of them has no ``by_row["anchors"]``, or another number of rows.

    >>> anchors = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    >>> have_equal_anchors(Outputs(by_row={"anchors": anchors}), Outputs(by_row={"anchors": anchors + 4}))
    False
    """
    a, b = first.by_row.get("anchors"), second.by_row.get("anchors")
    if a is None or b is None or a is b or a.shape != b.shape:
        return True
    return torch.allclose(a.float(), b.to(a.device).float(), rtol=1e-3, atol=0.1)


def require_boxes(context: LossContext, teacher: str | None = None) -> BoxTargets:
    """The boxes in ``sample_targets``, of the samples valid for that teacher.

    Raises:
        LimbeckError: there are none, or their shapes do not fit.
    """
    boxes, counts, size = (context.sample_target(name) for name in ("boxes", "num_boxes", "image_size"))
    batch = len(counts)
    if boxes.ndim != 3 or boxes.shape[::2] != (batch, 4) or size.shape != (batch, 2):
        raise LimbeckError(
            f"boxes must be [batch, k, 4] and image_size [batch, 2] for num_boxes [{batch}], got {list(boxes.shape)} "
            f"and {list(size.shape)}: correct sample_targets(batch) of the task"
        )
    if (valid := context.teacher_outputs(teacher).valid) is not None:
        valid = valid.to(boxes.device)
        boxes, counts, size = boxes[valid], counts[valid], size[valid]
    is_box = torch.arange(boxes.shape[1], device=boxes.device) < counts[:, None]
    return BoxTargets(boxes.float(), is_box, counts >= 0, size)
