"""The weighted sum of terms, and the module that holds student, teachers and that sum."""

from limbeck.objective.balance import Balance, GradNorm, LossRatio, Uncertainty
from limbeck.objective.deployed import deployed, reused
from limbeck.objective.distiller import Distiller
from limbeck.objective.each import each_teacher
from limbeck.objective.exits import EarlyExit, early_exits
from limbeck.objective.gathered import gathered
from limbeck.objective.objective import Loss, Objective
from limbeck.objective.peers import Peers, Together, for_each_peer
from limbeck.objective.temperatures import doubts

__all__ = [
    "Balance", "Distiller", "EarlyExit", "GradNorm", "Loss", "LossRatio", "Objective", "Peers", "Together",
    "Uncertainty", "deployed", "doubts", "each_teacher", "early_exits", "for_each_peer",
    "gathered", "reused",
]  # fmt: skip
