"""The training loop and what keeps its work safe: checkpoints, resume, seeds, watchers. Only this room knows Fabric."""

from limbeck.training.checkpoint import Diverged, Stopped
from limbeck.training.config import Training
from limbeck.training.distributed import Processes, join, launched
from limbeck.training.fit import Run, fit, one_device
from limbeck.training.freeze import frozen

__all__ = [
    "Diverged", "Processes", "Run", "Stopped", "Training", "fit", "frozen", "join", "launched", "one_device",
]  # fmt: skip
