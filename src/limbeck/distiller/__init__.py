"""The weighted sum of losses, and the module that holds student, teachers and that sum."""

from limbeck.distiller.deployment import EarlyExit, classifier_source, deployment_model, early_exits
from limbeck.distiller.distiller import Distiller
from limbeck.distiller.gather_context import gather_context
from limbeck.distiller.mutual import MutualTask, PeerStudents, scale_weights_for_peers
from limbeck.distiller.objective import LossOutput, Objective
from limbeck.distiller.per_teacher import loss_per_teacher
from limbeck.losses.temperature import temperature_warnings
from limbeck.losses.weighting import GradNorm, LossRatioWeighting, LossWeighting, UncertaintyWeighting

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
]
