"""Flow of solution procedure (FSP): Gram matrices between two layers.

Yim et al., CVPR 2017, https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html. The
flow of a sample between two layers is F·Gᵀ / positions, with F and G their features as [channels, positions]; where the
two have maps of different size, both are average-pooled to the smaller (the paper's max-pools). The loss is the mean of
the squared difference over batch and channel pairs; the paper's is the sum over pairs. Positions are summed over, so
the teacher's maps may have any size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Final, final

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss
from limbeck.losses._bases import format_settings
from limbeck.losses._features import channels_first, make_projection, require_prepared
from limbeck.losses._ops import mean_squared_error, upcast
from limbeck.losses._sequences import refuse_padding

_POOL: Final[Mapping[int, Callable[..., Tensor]]] = {
    3: F.adaptive_avg_pool1d,
    4: F.adaptive_avg_pool2d,
    5: F.adaptive_avg_pool3d,
}


def fsp_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over batch and channel pairs of the squared difference of the flows between an earlier and a later layer.

    Shapes: four times ``[batch, channels, ...]`` of up to three more axes, equally many in the two of a network.
    Student and teacher have equal channels at the earlier layer, and at the later.

    >>> import torch
    >>> ones = torch.ones(1, 1, 2)
    >>> fsp_loss((ones, 2 * ones), (ones, ones))
    tensor(1.)
    """
    for student_features, teacher_features in zip(student, teacher, strict=True):
        if student_features.shape[:2] != teacher_features.shape[:2]:
            raise LimbeckError(
                f"flows need equal batch and channels, got {list(student_features.shape)} and "
                f"{list(teacher_features.shape)}; the class FSPLoss learns a projection"
            )
    student_flow = _fsp_matrix(*map(upcast, student))
    teacher_flow = _fsp_matrix(*(upcast(features).detach() for features in teacher))
    return mean_squared_error(student_flow, teacher_flow)


@final
class FSPLoss(nn.Module, Loss):
    """:func:`fsp_loss` between two layers of each network, through learned projections where channels differ.

    Args:
        first_layer: name of the earlier layer, the same for student and teacher.
        last_layer: name of the later layer.
        teacher: name of the teacher; ``None``: the ensemble of all.
    """

    knowledge: ClassVar = "relation"
    layer_settings: ClassVar = ("first_layer", "last_layer")
    paper: ClassVar = "https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html"
    fn: ClassVar = staticmethod(fsp_loss)

    def __init__(self, first_layer: str, last_layer: str, *, teacher: str | None = None) -> None:
        super().__init__()
        self.first_layer, self.last_layer, self.teacher = first_layer, last_layer, teacher
        self.projections: nn.ModuleList | None = None

    def prepare(self, context: LossContext) -> None:
        """Build the projections for the features of ``context``; none is learned between equal channels."""
        student, teacher = context.pair(self.teacher)
        refuse_padding(context, student.feature(self.first_layer), loss="FSPLoss")
        self.projections = nn.ModuleList(
            make_projection(student.feature(layer), teacher.feature(layer))
            for layer in (self.first_layer, self.last_layer)
        )

    def forward(self, context: LossContext) -> Tensor:
        first, last = require_prepared(self.projections, "FSPLoss")
        student, teacher = context.pair(self.teacher)
        student_first = channels_first(first(upcast(student.feature(self.first_layer))))
        student_last = channels_first(last(upcast(student.feature(self.last_layer))))
        teacher_first, teacher_last = map(teacher.feature, (self.first_layer, self.last_layer))
        return fsp_loss((student_first, student_last), (channels_first(teacher_first), channels_first(teacher_last)))

    def extra_repr(self) -> str:
        return format_settings(self, "first_layer", "last_layer")


def _fsp_matrix(first: Tensor, last: Tensor) -> Tensor:
    """``[batch, channels, channels]``."""
    if first.ndim != last.ndim or len(first) != len(last) or not 2 <= first.ndim <= 5:
        raise LimbeckError(
            f"a flow connects two layers of one network with equally many axes [batch, channels, ...], got "
            f"{list(first.shape)} and {list(last.shape)}: use other layers"
        )
    size = tuple(map(min, first.shape[2:], last.shape[2:]))
    x, y = (_pool_to_size(features, size).flatten(2) if size else features.unsqueeze(2) for features in (first, last))
    return (x @ y.mT) / x.shape[2]


def _pool_to_size(features: Tensor, size: tuple[int, ...]) -> Tensor:
    if not len(features):
        return features.new_zeros(0, features.shape[1], *size)
    return features if tuple(features.shape[2:]) == size else _POOL[features.ndim](features, size)
