"""The weighted sum of terms, and the module that holds student, teachers and that sum."""

from limbeck.objective.balance import Balance, GradNorm, LossRatio, Uncertainty
from limbeck.objective.distiller import Distiller
from limbeck.objective.each import each_teacher
from limbeck.objective.gathered import gathered
from limbeck.objective.objective import Loss, Objective
from limbeck.objective.temperatures import doubts

__all__ = [
    "Balance", "Distiller", "GradNorm", "Loss", "LossRatio", "Objective", "Uncertainty", "doubts", "each_teacher",
    "gathered",
]  # fmt: skip
