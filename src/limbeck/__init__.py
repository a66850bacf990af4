"""limbeck: knowledge distillation as one Python system, from theory to deployment.

The names below load on first use, so ``import limbeck`` costs little more than torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from limbeck._version import __version__

if TYPE_CHECKING:
    from limbeck import data, features, losses, models, tasks, teachers, training
    from limbeck.core import schedules
    from limbeck.core.errors import LimbeckError
    from limbeck.core.loss_context import LossContext
    from limbeck.core.outputs import Outputs
    from limbeck.core.progress import Progress
    from limbeck.distiller.distiller import Distiller
    from limbeck.distiller.objective import LossOutput, Objective
    from limbeck.training.fit import FitResult
    from limbeck.workflows.python_run import DistillResult, distill, fit

_NAMES = {
    "Distiller": "limbeck.distiller.distiller",
    "LossContext": "limbeck.core.loss_context",
    "LimbeckError": "limbeck.core.errors",
    "LossOutput": "limbeck.distiller.objective",
    "Objective": "limbeck.distiller.objective",
    "Outputs": "limbeck.core.outputs",
    "Progress": "limbeck.core.progress",
    "FitResult": "limbeck.training.fit",
    "DistillResult": "limbeck.workflows.python_run",
    "distill": "limbeck.workflows.python_run",
    "fit": "limbeck.workflows.python_run",
}
_SUBMODULES = {
    "data": "limbeck.data",
    "features": "limbeck.features",
    "losses": "limbeck.losses",
    "models": "limbeck.models",
    "schedules": "limbeck.core.schedules",
    "tasks": "limbeck.tasks",
    "teachers": "limbeck.teachers",
    "training": "limbeck.training",
}

__all__ = [
    "DistillResult",
    "Distiller",
    "FitResult",
    "LimbeckError",
    "LossContext",
    "LossOutput",
    "Objective",
    "Outputs",
    "Progress",
    "__version__",
    "data",
    "distill",
    "features",
    "fit",
    "losses",
    "models",
    "schedules",
    "tasks",
    "teachers",
    "training",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(_SUBMODULES[name])
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'limbeck' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
