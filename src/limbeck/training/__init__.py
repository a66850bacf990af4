"""The training loop with checkpoints, callbacks and multiple processes; the only package that uses Lightning Fabric."""

from limbeck.training.checkpoint import TrainingDiverged, TrainingInterrupted
from limbeck.training.config import TrainingConfig
from limbeck.training.distributed import Processes, init_processes
from limbeck.training.fabric import make_fabric, make_single_device_fabric
from limbeck.training.fit import FitResult, fit
from limbeck.training.freeze import freeze_modules

__all__ = [
    "FitResult", "Processes", "TrainingConfig", "TrainingDiverged", "TrainingInterrupted", "fit", "freeze_modules",
    "init_processes", "make_fabric", "make_single_device_fabric",
]  # fmt: skip
