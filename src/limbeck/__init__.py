"""limbeck: knowledge distillation as one Python system, from theory to deployment.

The names below load on first use, so ``import limbeck`` costs nothing beside torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from limbeck._version import __version__

if TYPE_CHECKING:
    from limbeck import data, engine, models, schedule, taps, tasks, teachers, terms
    from limbeck.core.errors import LimbeckError
    from limbeck.core.exchange import Exchange
    from limbeck.core.outputs import Outputs
    from limbeck.core.progress import Progress
    from limbeck.engine.fit import Run, fit
    from limbeck.objective.distiller import Distiller
    from limbeck.objective.objective import Loss, Objective

_NAMES = {
    "Distiller": "limbeck.objective.distiller",
    "Exchange": "limbeck.core.exchange",
    "LimbeckError": "limbeck.core.errors",
    "Loss": "limbeck.objective.objective",
    "Objective": "limbeck.objective.objective",
    "Outputs": "limbeck.core.outputs",
    "Progress": "limbeck.core.progress",
    "Run": "limbeck.engine.fit",
    "fit": "limbeck.engine.fit",
}
_ROOMS = {"data", "engine", "models", "schedule", "taps", "tasks", "teachers", "terms"}

__all__ = [
    "Distiller", "Exchange", "LimbeckError", "Loss", "Objective", "Outputs", "Progress", "Run", "__version__", "data",
    "engine", "fit", "models", "schedule", "taps", "tasks", "teachers", "terms",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"limbeck.{name}")
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'limbeck' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
