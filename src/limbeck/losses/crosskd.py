"""CrossKD: the student's features go through the teacher's head.

Wang et al., CVPR 2024, https://arxiv.org/abs/2306.11369. The features of a layer inside the student's head continue
through the remaining layers of the teacher's frozen head; these cross-head predictions are compared with the teacher's
own. So the student's own predictions learn from the targets only, and do not get two contradicting gradients. Classes
are compared by the quality focal loss (https://arxiv.org/abs/2006.04388) with β = 1; boxes by the smooth L1 distance of
the encoded boxes, weighted by the teacher's highest class probability (the paper has GIoU or LD there). Both are means
over rows, or over the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Loss
from limbeck.losses._bases import format_settings
from limbeck.losses._features import Projection, make_projection, require_layers, require_prepared
from limbeck.losses._logits import prepare_logits, quality_focal_by_row
from limbeck.losses._ops import require_interval, require_same_shape, row_mean, upcast

Branch = Literal["classification", "boxes"]


def crosskd_loss(cross_logits: Tensor, teacher_logits: Tensor, *, beta: float = 1.0) -> Tensor:
    """Mean over rows of the quality focal loss of cross-head logits against the teacher's.

    Shapes: both ``[rows, classes]`` logits of sigmoids. Zero where they agree.

    >>> crosskd_loss(torch.tensor([[2.0]]), torch.tensor([[0.0]]))
    tensor(0.4291)
    """
    cross_logits, teacher_logits = prepare_logits(cross_logits, teacher_logits)
    return row_mean(quality_focal_by_row(cross_logits, teacher_logits, beta, 1.0))


def crosskd_box_loss(cross_deltas: Tensor, teacher_deltas: Tensor, teacher_logits: Tensor) -> Tensor:
    """Smooth L1 distance of cross-head boxes, weighted by the teacher's highest class probability of a row.

    Shapes: ``[rows, 4]`` encoded boxes, ``[rows, classes]`` logits of sigmoids.

    >>> crosskd_box_loss(torch.zeros(1, 4), torch.full((1, 4), 2.0), torch.zeros(1, 3))
    tensor(6.)
    """
    require_same_shape(cross_deltas, teacher_deltas, name="box_deltas", hint="both need the same rows")
    cross_deltas, teacher_deltas = upcast(cross_deltas), upcast(teacher_deltas).detach()
    by_row = F.smooth_l1_loss(cross_deltas, teacher_deltas, reduction="none").sum(dim=1)
    weights = upcast(teacher_logits).detach().sigmoid().amax(dim=1)
    return (by_row * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


@final
class CrossKDLoss(nn.Module, Loss):
    """:func:`crosskd_loss` or :func:`crosskd_box_loss` of one branch of the head; one loss for each branch.

    Where the widths of the heads differ, a learned 1×1 convolution comes between them. The last of ``teacher_modules``
    must return the map of the predictions, ``[batch, anchors · classes, height, width]`` with the anchors first, as the
    heads of torchvision's RetinaNet, FCOS and SSD do.

    Args:
        student_features: names of the student's feature layers, one for each level of the pyramid, in the order of the
            head. A head runs once for each level, so these are calls of one module:
            ``head.classification_head.conv.1@0`` at the first level, ``head.classification_head.conv.1@1`` at the next.
        teacher_modules: paths of the teacher's modules that follow, in their order:
            ``head.classification_head.conv.2``, ``head.classification_head.conv.3``,
            ``head.classification_head.cls_logits``.
        branch: what the last of them predicts.
        beta: exponent of the weight of the quality focal loss, at least 1.
        teacher: name of the teacher; ``None``: the only one.

    Raises:
        LimbeckError: the teacher has no network or no such modules, or the predictions do not fit its rows.
    """

    knowledge: ClassVar = "response"
    paper: ClassVar = "https://arxiv.org/abs/2306.11369"
    fn: ClassVar = staticmethod(crosskd_loss)

    def __init__(
        self, student_features: Sequence[str], teacher_modules: Sequence[str], *, branch: Branch = "classification",
        beta: float = 1.0, teacher: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if branch not in ("classification", "boxes"):
            raise LimbeckError(f"branch must be classification or boxes, got {branch!r}")
        require_interval("beta", beta, "[1, inf)")
        self.student_features, self.teacher_modules = require_layers(student_features), require_layers(teacher_modules)
        self.branch: Branch = branch
        self.beta, self.teacher = beta, teacher
        self.projection: Projection | None = None
        self._head: tuple[nn.Module, ...] = ()  # in a tuple: nn.Module must not register the teacher as its own

    def set_teachers(self, networks: Mapping[str, nn.Module | None]) -> None:
        """Find the layers of the teacher's head; called by the distiller.

        Args:
            networks: the network of each teacher, without wrappers; ``None`` where it has none.
        """
        name = self.teacher or next(iter(networks), None)
        if name is None or (self.teacher is None and len(networks) > 1) or name not in networks:
            raise LimbeckError(
                f"CrossKDLoss uses the head of one teacher, got {', '.join(networks) or 'none'}: set its teacher"
            )
        network = networks[name]
        if network is None:
            raise LimbeckError(f"CrossKDLoss uses the head of {name!r}, which has no network: use an nn.Module")
        modules = dict(network.named_modules())
        for path in self.teacher_modules:
            if path not in modules:
                raise LimbeckError(
                    f"teacher_modules must be modules of {name!r}, got {path!r}; available: "
                    f"{suggest_names(path, modules)}"
                )
        self._head = tuple(modules[path] for path in self.teacher_modules)

    def prepare(self, context: LossContext) -> None:
        """Build the projection from the student's to the teacher's width."""
        features = self._features(context)[0]
        if features.ndim != 4:
            raise LimbeckError(
                f"CrossKDLoss needs maps [batch, channels, height, width] of the student's head, got "
                f"{list(features.shape)}: use a convolution"
            )
        convolutions = (m for module in self._require_head() for m in module.modules() if isinstance(m, nn.Conv2d))
        if (first := next(convolutions, None)) is None:
            raise LimbeckError("teacher_modules must have a convolution, got none: name the layers of the head")
        self.projection = make_projection(features, features.new_empty(0, first.in_channels, 1, 1))

    def forward(self, context: LossContext) -> Tensor:
        """The loss of this context."""
        project = require_prepared(self.projection, "CrossKDLoss")
        teacher = context.pair(self.teacher)[1]
        logits, maps = teacher.require_logits(), [self._run_head(project(x)) for x in self._features(context)]
        if self.branch == "classification":
            return crosskd_loss(_to_rows(maps, logits), logits, beta=self.beta)
        if "box_deltas" not in teacher.by_row:
            raise LimbeckError("CrossKDLoss needs box_deltas of each row: use the task Detection with a dense detector")
        deltas = teacher.by_row["box_deltas"]
        return crosskd_box_loss(_to_rows(maps, deltas), deltas, logits)

    def extra_repr(self) -> str:
        return format_settings(self, "student_features", "teacher_modules", "branch", "beta")

    def _features(self, context: LossContext) -> list[Tensor]:
        student: Outputs = context.pair(self.teacher)[0]
        return [student.feature(name) for name in self.student_features]

    def _require_head(self) -> tuple[nn.Module, ...]:
        if not self._head:
            raise LimbeckError("CrossKDLoss needs the network of its teacher: use it in a Distiller, or set_teachers()")
        return self._head

    def _run_head(self, features: Tensor) -> Tensor:
        head = self._require_head()
        value: Any = features.to(next((p.dtype for module in head for p in module.parameters()), features.dtype))
        for module in head:
            value = module(value)
        return upcast(value)


def _to_rows(maps: Sequence[Tensor], reference: Tensor) -> Tensor:
    """Maps ``[batch, anchors · width, height, width]`` of all levels as rows in the order of ``reference``."""
    width = reference.shape[1]
    if any(values.ndim != 4 or values.shape[1] % width for values in maps):
        raise LimbeckError(
            f"the last of teacher_modules must return a multiple of {width} channels, got {list(maps[0].shape)}: name "
            "the layer that predicts this branch"
        )
    levels = []
    for values in maps:
        batch, channels, *size = values.shape
        by_anchor = values.reshape(batch, channels // width, width, *size)
        levels.append(by_anchor.permute(0, 3, 4, 1, 2).flatten(1, 3))
    rows = torch.cat(levels, dim=1).flatten(0, 1)
    require_same_shape(rows, reference, name="cross-head predictions", hint="name all levels, in the order of the head")
    return rows
