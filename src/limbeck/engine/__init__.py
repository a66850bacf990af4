"""The training loop and what keeps its work safe: checkpoints, resume, seeds, watchers. Only this room knows Fabric."""

from limbeck.engine.checkpoint import Diverged, Stopped
from limbeck.engine.fit import Run, fit, one_device
from limbeck.engine.freeze import frozen
from limbeck.engine.processes import Processes, join, launched
from limbeck.engine.training import Training

__all__ = [
    "Diverged", "Processes", "Run", "Stopped", "Training", "fit", "frozen", "join", "launched", "one_device",
]  # fmt: skip
