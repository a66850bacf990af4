"""Structured knowledge distillation (SKD): cosine similarities between all pairs of nodes of a map.

Liu et al., CVPR 2019, https://arxiv.org/abs/1903.04197, the pair-wise part. A node is a patch of β = patch_size²
pixels, whose features are averaged; a_ij is the cosine of the nodes i and j of one image, and the loss is the mean over
images and pairs of (a_ij of the student − a_ij of the teacher)². Every node is connected to every other (α of the paper
is all nodes). Patches are averaged as in the paper; the published code takes their maximum, of half the map each. Only
similarities are compared, so channels may differ and nothing is learned. Of maps of unequal size, the larger is
average-pooled to the smaller first. The published weight is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from limbeck.losses._bases import FeatureLoss
from limbeck.losses._features import match_size, pool_patches, require_maps, unit_pixels
from limbeck.losses._ops import mean_squared_error, require_interval, upcast


def skd_loss(student: Tensor, teacher: Tensor, *, patch_size: int = 2) -> Tensor:
    """Mean over batch and pairs of nodes of the squared difference of their cosine similarities.

    Shapes: ``[batch, channels, height, width]`` each; channels and sizes may differ. Memory grows with
    batch · (height · width / patch_size²)². Zero where all angles between nodes agree; a node of zeros has cosine 0.

    >>> import torch
    >>> skd_loss(torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]), torch.ones(1, 3, 1, 2), patch_size=1)
    tensor(0.5000)
    """
    require_maps(student, teacher, method="structured distillation")
    student, teacher = match_size(upcast(student), upcast(teacher).detach())
    return mean_squared_error(_node_similarities(student, patch_size), _node_similarities(teacher, patch_size))


@final
@dataclass(frozen=True)
class SKDLoss(FeatureLoss):
    """:func:`skd_loss` of one layer of student and teacher.

    Args:
        patch_size: height and width of a node in pixels of the smaller map, at least 1.
    """

    knowledge: ClassVar = "relation"
    paper: ClassVar = "https://arxiv.org/abs/1903.04197"
    fn: ClassVar = staticmethod(skd_loss)

    patch_size: int = 2

    def __post_init__(self) -> None:
        require_interval("patch_size", self.patch_size, "[1, inf)")


def _node_similarities(maps: Tensor, patch_size: int) -> Tensor:
    """``[batch, nodes, nodes]``."""
    nodes = unit_pixels(pool_patches(maps, patch_size))
    return nodes @ nodes.mT
