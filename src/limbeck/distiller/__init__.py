"""The weighted sum of terms, and the module that holds student, teachers and that sum."""

from limbeck.distiller.deployment import classifier_source, deployment_model
from limbeck.distiller.distiller import Distiller
from limbeck.distiller.early_exits import EarlyExit, early_exits
from limbeck.distiller.gather_context import gather_context
from limbeck.distiller.mutual import MutualTask, PeerStudents, scale_weights_for_peers
from limbeck.distiller.objective import LossOutput, Objective
from limbeck.distiller.per_teacher import loss_per_teacher
from limbeck.distiller.temperature_checks import temperature_warnings
from limbeck.losses.weighting.loss_weighting import GradNorm, LossRatioWeighting, LossWeighting, UncertaintyWeighting

__all__ = [
    "Distiller",
    "EarlyExit",
    "GradNorm",
    "LossOutput",
    "LossRatioWeighting",
    "LossWeighting",
    "MutualTask",
    "Objective",
    "PeerStudents",
    "UncertaintyWeighting",
    "classifier_source",
    "deployment_model",
    "early_exits",
    "gather_context",
    "loss_per_teacher",
    "scale_weights_for_peers",
    "temperature_warnings",
]  # fmt: skip
