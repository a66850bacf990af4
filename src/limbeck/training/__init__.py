"""The training loop and what keeps its work safe: checkpoints, resume, seeds, callbacks. Only this room knows Fabric."""

from limbeck.training.checkpoint import TrainingDiverged, TrainingInterrupted
from limbeck.training.config import TrainingConfig
from limbeck.training.distributed import Processes, init_processes, make_fabric
from limbeck.training.fit import FitResult, fit, make_single_device_fabric
from limbeck.training.freeze import freeze_modules

__all__ = [
    "FitResult",
    "Processes",
    "TrainingConfig",
    "TrainingDiverged",
    "TrainingInterrupted",
    "fit",
    "freeze_modules",
    "init_processes",
    "make_fabric",
    "make_single_device_fabric",
]  # fmt: skip
