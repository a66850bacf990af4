"""The weighted sum of terms, and the module that holds student, teachers and that sum."""

from limbeck.objective.distiller import Distiller
from limbeck.objective.each import each_teacher
from limbeck.objective.gathered import gathered
from limbeck.objective.objective import Loss, Objective

__all__ = ["Distiller", "Loss", "Objective", "each_teacher", "gathered"]
