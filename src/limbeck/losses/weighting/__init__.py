"""Loss weighting during training: GradNorm, uncertainty, loss ratio."""

from limbeck.losses.weighting.gradnorm import GradNorm
from limbeck.losses.weighting.loss_weighting import LossRatioWeighting, LossWeighting, UncertaintyWeighting

__all__ = ["GradNorm", "LossRatioWeighting", "LossWeighting", "UncertaintyWeighting"]
