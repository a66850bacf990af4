"""The loggers and callbacks that a recipe names, for each of its trainings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limbeck.recipe import ResolvedRecipe
from limbeck.training.callbacks import Callback, make_logger
from limbeck.training.progress_bar import ProgressBar

__all__ = ["finalize_loggers", "make_callbacks", "make_loggers"]


def make_loggers(plan: ResolvedRecipe, run_dir: Path) -> list[Any]:
    """New loggers; those named ``tensorboard`` and ``mlflow`` write below ``run_dir``."""
    name = plan.recipe.name
    return [make_logger(node, run_dir, run=name) if isinstance(node, str) else node.build() for node in plan.loggers]


@contextmanager
def finalize_loggers(loggers: Sequence[Any]) -> Iterator[None]:
    """After a training, call ``finalize("success")``, or ``finalize("failed")``, of the loggers that have it.

    MLflow shows a run that is not finalized as still running.
    """
    status = "failed"
    try:
        yield
        status = "success"
    finally:
        for logger in loggers:
            if callable(finalize := getattr(logger, "finalize", None)):
                finalize(status)


def make_callbacks(plan: ResolvedRecipe, callbacks: Sequence[Callback] | None) -> list[Callback] | None:
    """``callbacks`` (``None``: a progress bar) and new ones of the recipe; ``None`` where the recipe has none."""
    if not plan.callbacks:
        return None if callbacks is None else list(callbacks)
    return [*([ProgressBar()] if callbacks is None else callbacks), *(node.build() for node in plan.callbacks)]
