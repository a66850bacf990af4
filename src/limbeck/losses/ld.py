"""Localization distillation (LD): distributions of box edges near the boxes.

Zheng et al., CVPR 2022, https://arxiv.org/abs/2102.12252. Heads of Generalized Focal Loss
(https://arxiv.org/abs/2006.04388) predict a distribution over the offset of each of the four edges. LD is KD of these:
τ² · Σ over edges of KL(teacher ‖ student) at τ = 10, in two regions by the DIoU X of an anchor with its best box:

    main region                  X > α
    valuable localization region γ·α ≤ X ≤ α,  γ = 0.25

and the mean over the rows of each region. The paper's main region are the positive rows of the detector's own label
assignment, to which limbeck has no access: here it is X > α with α = 0.5, that of RetinaNet. The published code divides
by the number of bins as well, which is not in the paper and not here. Of a head without distributions, the smooth L1
distance of the encoded boxes is compared in the same regions (Girshick, 2015, https://arxiv.org/abs/1504.08083).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Loss
from limbeck.core.schedules import Schedule, resolve
from limbeck.losses._boxes import BoxTargets, require_boxes
from limbeck.losses._logits import broadcast_temperature, masked_mean, require_temperature
from limbeck.losses._ops import require_interval, require_same_shape, upcast


def ld_loss(student: Tensor, teacher: Tensor, region: Tensor, *, temperature: float = 10.0) -> Tensor:
    """Mean over the rows of ``region`` of Σ KL(teacher ‖ student) over edges at ``temperature``, times its square.

    Shapes: both ``[rows, 4, bins]`` logits; ``region`` ``[rows]`` booleans. Zero where they agree, and without rows.

    >>> student, teacher = torch.zeros(1, 4, 2), torch.tensor([[[1.0, 0.0]] * 4])
    >>> ld_loss(student, teacher, torch.tensor([True]), temperature=1.0)
    tensor(0.4438)
    """
    require_same_shape(student, teacher, name="box_logits", hint="both need the same rows with the same bins")
    divisor = broadcast_temperature(temperature, student)
    log_q = F.log_softmax(upcast(student) / divisor, dim=2)
    log_p = F.log_softmax(upcast(teacher).detach() / divisor, dim=2)
    by_row = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=(1, 2))
    return masked_mean(by_row, region) * temperature**2


def box_deltas_loss(student: Tensor, teacher: Tensor, region: Tensor) -> Tensor:
    """Mean over the rows of ``region`` of the smooth L1 distance, summed over the four numbers of a box.

    Shapes: both ``[rows, 4]``, in the encoding of the head; ``region`` ``[rows]`` booleans.

    >>> box_deltas_loss(torch.zeros(2, 4), torch.tensor([[2.0, 0.0, 0.0, 1.0]] * 2), torch.tensor([True, False]))
    tensor(2.)
    """
    require_same_shape(student, teacher, name="box_deltas", hint="both need the same rows")
    by_row = F.smooth_l1_loss(upcast(student), upcast(teacher).detach(), reduction="none").sum(dim=1)
    return masked_mean(by_row, region)


def pairwise_diou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """DIoU: the IoU minus the squared distance of centers divided by the squared diagonal of the hull.

    Zheng et al., AAAI 2020, https://arxiv.org/abs/1911.08287. Shapes: ``[n, 4]`` and ``[k, 4]`` (left, top, right,
    bottom), result ``[n, k]``.

    >>> pairwise_diou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 2.0, 2.0, 4.0]]))
    tensor([[ 1.0000, -0.2000]])
    """
    first, second = anchors[:, None], boxes[None]
    top_left, bottom_right = first[..., :2].maximum(second[..., :2]), first[..., 2:].minimum(second[..., 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=2)
    areas = [(b[..., 2:] - b[..., :2]).prod(dim=2) for b in (first, second)]
    union = areas[0] + areas[1] - intersection
    diagonal = first[..., 2:].maximum(second[..., 2:]) - first[..., :2].minimum(second[..., :2])
    distance = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) / 2
    tiny = torch.finfo(anchors.dtype).tiny
    iou = intersection / union.clamp(min=tiny)
    return iou - distance.square().sum(dim=2) / diagonal.square().sum(dim=2).clamp(min=tiny)


@final
@dataclass(frozen=True)
class LDLoss(Loss):
    """:func:`ld_loss` of ``box_logits`` in both regions; :func:`box_deltas_loss` where the heads have no distributions.

    Student and teacher must have the same rows: the same levels, strides and anchors.

    Args:
        temperature: τ of the distributions, a number above zero, or a schedule.
        positive_threshold: α, the DIoU above which a row is in the main region.
        valuable_fraction: γ, the lower end of the valuable localization region by ``positive_threshold``.
        main_weight: weight of the main region.
        valuable_weight: weight of the valuable localization region; 0: only the main region.
        anchor_scale: factor of the sides of anchors before they are compared with boxes. An anchor-free head has
            squares of the stride, too small for large boxes: with 8, as in ATSS and GFL, they are of 8 strides.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "response"
    paper: ClassVar = "https://arxiv.org/abs/2102.12252"
    fn: ClassVar = staticmethod(ld_loss)

    temperature: float | Schedule = 10.0
    positive_threshold: float = field(default=0.5, kw_only=True)
    valuable_fraction: float = field(default=0.25, kw_only=True)
    main_weight: float = field(default=1.0, kw_only=True)
    valuable_weight: float = field(default=1.0, kw_only=True)
    anchor_scale: float = field(default=1.0, kw_only=True)
    teacher: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        require_interval("positive_threshold", self.positive_threshold, "(0, 1)")
        require_interval("valuable_fraction", self.valuable_fraction, "[0, 1]")
        require_interval("main_weight", self.main_weight, "[0, inf)")
        require_interval("valuable_weight", self.valuable_weight, "[0, inf)")
        require_interval("anchor_scale", self.anchor_scale, "(0, inf)")

    def __call__(self, context: LossContext) -> Tensor:
        student, teacher = context.pair(self.teacher)
        anchors = _by_row(student, "anchors")
        require_same_shape(
            anchors, _by_row(teacher, "anchors"), name="anchors", hint="use heads of the same levels and anchors"
        )
        quality = self._match(anchors, student, require_boxes(context, self.teacher))
        is_main = quality > self.positive_threshold
        is_valuable = ~is_main & (quality >= self.valuable_fraction * self.positive_threshold)
        regions = ((self.main_weight, is_main), (self.valuable_weight, is_valuable))
        if "box_logits" in student.by_row and "box_logits" in teacher.by_row:
            temperature = resolve(self.temperature, context.progress)
            pair = student.by_row["box_logits"], teacher.by_row["box_logits"]
            return _sum_weighted(regions, lambda region: ld_loss(*pair, region, temperature=temperature))
        deltas = _by_row(student, "box_deltas"), _by_row(teacher, "box_deltas")
        return _sum_weighted(regions, lambda region: box_deltas_loss(*deltas, region))

    @torch.no_grad()
    def _match(self, anchors: Tensor, outputs: Outputs, targets: BoxTargets) -> Tensor:
        """The highest DIoU of each row with a box of its image, ``[rows]``; −1 without boxes."""
        center, half = (anchors[:, :2] + anchors[:, 2:]) / 2, (anchors[:, 2:] - anchors[:, :2]) / 2
        scaled = torch.cat([center - half * self.anchor_scale, center + half * self.anchor_scale], dim=1).float()
        quality = scaled.new_full((len(scaled),), -1.0)
        samples = outputs.row_to_sample
        samples = torch.arange(len(scaled), device=scaled.device) if samples is None else samples
        # By image: all pairs of rows and boxes of a batch at once would be gigabytes.
        for rows, boxes in _rows_with_boxes(samples, targets):
            quality[rows] = pairwise_diou(scaled[rows], boxes).amax(dim=1)
        return quality


def _sum_weighted(regions: Sequence[tuple[float, Tensor]], loss: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([weight * loss(region) for weight, region in regions]).sum()


def _rows_with_boxes(row_to_sample: Tensor, targets: BoxTargets) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows (booleans) and the boxes of each image that has boxes."""
    for sample, (boxes, is_box) in enumerate(zip(targets.boxes, targets.is_box, strict=True)):
        image_boxes = boxes[is_box]
        if len(image_boxes):
            yield row_to_sample == sample, image_boxes


def _by_row(outputs: Outputs, name: str) -> Tensor:
    if name not in outputs.by_row:
        raise LimbeckError(
            f"LDLoss needs {name} of each row, got {', '.join(outputs.by_row) or 'none'}: use the task Detection with "
            "a dense detector"
        )
    return outputs.by_row[name]
