"""The weighted sum of terms, and the module that holds student, teachers and that sum."""

from limbeck.objective.distiller import Distiller
from limbeck.objective.each import each_teacher
from limbeck.objective.exits import EarlyExit, early_exits
from limbeck.objective.gathered import gathered
from limbeck.objective.objective import Loss, Objective
from limbeck.objective.peers import Peers, Together, for_each_peer

__all__ = [
    "Distiller", "EarlyExit", "Loss", "Objective", "Peers", "Together", "each_teacher", "early_exits", "for_each_peer",
    "gathered",
]  # fmt: skip
