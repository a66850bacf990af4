"""``study.json``: what was asked of a study, how far each cell is, and what they have found so far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from limbeck._version import __version__
from limbeck.recipe import Recipe
from limbeck.recipe.schema import plain
from limbeck.recipe.study_schema import Study
from limbeck.utils.io import write_atomically
from limbeck.workflows.study.queue import Cell, Queue
from limbeck.workflows.study.results import AGAINST, results
from limbeck.workflows.study.variants import Arm, Shared, arms

__all__ = ["cells", "done", "summed"]


def cells(recipe: Recipe) -> list[Cell]:
    """Every cell, seed by seed, the teacher first, so that nobody waits long for one."""
    return [Cell(name, seed) for seed in (recipe.study or Study()).seeds for name in arms(recipe)]


def done(folder: Path, cell: Cell) -> bool:
    """Whether the cell is finished."""
    return (folder / cell.place / "record.json").exists()


def summed(recipe: Recipe, queue: Queue, shared: Shared) -> dict[str, Any]:
    """Write ``study.json`` from what the cells have found so far, and give what it holds."""
    every, states, folder = arms(recipe), queue.states(), shared.folder
    found = {
        "schema": 1, "kind": "study", "limbeck": __version__, "name": recipe.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "recipe": plain(recipe),
        "seeds": list((recipe.study or Study()).seeds), "against": AGAINST, "keep": recipe.training.keep,
        "pace": shared.pace, "shared_views": shared.views,
        "arms": {arm.name: _told(arm, recipe, shared) for arm in every.values()},
        "cells": [_state(folder, cell, states) for cell in cells(recipe)],
        "results": results(folder, every, (recipe.study or Study()).seeds),
    }  # fmt: skip
    text = json.dumps(found, indent=1, allow_nan=False)
    write_atomically(folder / "study.json", lambda path: path.write_text(text))
    return found


def _told(arm: Arm, recipe: Recipe, shared: Shared) -> dict[str, Any]:
    said, note = recipe.study or Study(), None
    if arm.name == "longer":
        note = f"{shared.pace:.2f} times the steps, since a distilled step takes as many times as long"
    if arm.name == "smoothed":
        note = f"label smoothing {said.smoothing:g}"
    kept = arm.changes.get("training.keep", recipe.training.keep)
    if kept == "best" and arm.role != "teacher":
        note = "; ".join(text for text in (note, "the best epoch by validation, not the last") if text)
    return {"role": arm.role, "title": arm.title, "changes": dict(arm.changes), "note": note}


def _state(folder: Path, cell: Cell, states: Mapping[Cell, tuple[str, str | None]]) -> dict[str, Any]:
    state, error = ("done", None) if done(folder, cell) else states.get(cell, ("waiting", None))
    return {"arm": cell.arm, "seed": cell.seed, "folder": cell.place, "state": state, "error": error}
