"""The weighted sum of terms, and the module that holds student, teachers and that sum."""

from limbeck.distiller.deployment import deployed, reused
from limbeck.distiller.distiller import Distiller
from limbeck.distiller.early_exits import EarlyExit, early_exits
from limbeck.distiller.gather_context import gathered
from limbeck.distiller.mutual import Peers, Together, for_each_peer
from limbeck.distiller.objective import Loss, Objective
from limbeck.distiller.per_teacher import each_teacher
from limbeck.distiller.temperature_checks import doubts
from limbeck.losses.weighting.loss_weighting import Balance, GradNorm, LossRatio, Uncertainty

__all__ = [
    "Balance", "Distiller", "EarlyExit", "GradNorm", "Loss", "LossRatio", "Objective", "Peers", "Together",
    "Uncertainty", "deployed", "doubts", "each_teacher", "early_exits", "for_each_peer",
    "gathered", "reused",
]  # fmt: skip
