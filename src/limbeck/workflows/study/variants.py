"""The arms of a study, each as a recipe of its own: teacher, matched controls, the recipe itself, its variants.

The controls differ from the recipe in nothing but what they are named for. ``alone`` has the same start, views, batch,
optimizer, schedule and number of steps, and the labels as its only teacher; ``longer`` is alone for as many steps as
fit in the distilled student's wall time; ``smoothed`` is alone with label smoothing (Szegedy et al., CVPR 2016,
https://arxiv.org/abs/1512.00567), since a part of what a teacher gives is that (Yuan et al., CVPR 2020,
https://arxiv.org/abs/1909.11723).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from limbeck.core.errors import LimbeckError, nearest
from limbeck.recipe import Recipe, check
from limbeck.recipe.overrides import changed
from limbeck.recipe.schema import plain, validated
from limbeck.recipe.study_schema import ARMS, CONTROLS, Study

__all__ = ["Arm", "Shared", "arms", "cell_recipe", "sound"]

_TITLES = {
    "teacher": "Teacher", "alone": "Student alone", "longer": "Student alone, equal wall time",
    "smoothed": "Student alone, label smoothing", "distilled": "Distilled student",
}  # fmt: skip
# Lengths that a scheduler counts in steps or epochs: they are drawn out with the training.
_LENGTHS = ("milestones", "step_size", "T_max", "T_0", "total_iters")


@final
@dataclass(frozen=True, slots=True)
class Arm:
    """One arm: what it is called, its part in the comparison, and what it changes of the recipe."""

    name: str
    role: str
    title: str
    changes: Mapping[str, Any]

    @property
    def listens(self) -> bool:
        """Whether it learns from teachers."""
        return self.role == "distilled"


@final
@dataclass(frozen=True, slots=True)
class Shared:
    """What the study found once for all cells.

    Attributes:
        folder: of the study.
        lengths: optimizer steps of each stage of the recipe.
        pace: wall time of a distilled training divided by that of one alone.
        views: how many views of a picture the shared cache holds; 0: the recipe says it, or there is no shared one.
    """

    folder: Path
    lengths: Sequence[int]
    pace: float
    views: int


def arms(recipe: Recipe) -> dict[str, Arm]:
    """All arms of the recipe's study, in their order; without teachers there is none of that name.

    Raises:
        LimbeckError: an arm changes what is not there, or has the name of a teacher or assistant.
    """
    said = recipe.study or Study()
    left = {name for name in CONTROLS if name not in said.controls} | (set() if recipe.teachers else {"teacher"})
    found = [Arm(name, name, _TITLES[name], {}) for name in ARMS if name not in left]
    for name, changes in said.arms.items():
        if name in recipe.teachers or name in recipe.assistants:
            raise LimbeckError(f"study.arms.{name}: a teacher or assistant has that name already: choose another")
        told = ", ".join(f"{path.removeprefix('stages.0.')}={_brief(value)}" for path, value in changes.items())
        found.append(Arm(name, "distilled", told, dict(changes)))
    return {arm.name: arm for arm in found}


def cell_recipe(recipe: Recipe, arm: Arm, seed: int, shared: Shared) -> Recipe:
    """What one arm trains with one seed, as a recipe that stands by itself."""
    whole = plain(recipe) | {"seed": seed, "study": None, "control": "none", "export": {"to": []}}
    try:
        if arm.role in CONTROLS:
            whole = _control(whole, arm, recipe, shared)
        elif arm.role == "distilled":
            whole = _listening(_changed(whole, arm), recipe, seed, shared)
        return validated(Recipe, whole)
    except LimbeckError as error:
        raise LimbeckError(f"study.arms.{arm.name}: {error}") from error


def sound(recipe: Recipe) -> None:
    """Check the recipe of every arm, as far as that goes without its data; an error names the arm."""
    untimed = Shared(Path(), [1] * len(recipe.stages), 1.0, 0)
    for arm in arms(recipe).values():
        own = cell_recipe(recipe, arm, recipe.seed, untimed)
        try:
            check(own)
        except LimbeckError as error:
            raise LimbeckError(f"study.arms.{arm.name}: {error}") from error


def _changed(whole: dict[str, Any], arm: Arm) -> dict[str, Any]:
    changes = dict(arm.changes)
    wanted = changes.get("teachers")
    if isinstance(wanted, list | tuple):
        del changes["teachers"]
        for name in wanted:
            if name not in whole["teachers"]:
                raise LimbeckError(f"teachers: there is no teacher {name!r}: {nearest(str(name), whole['teachers'])}")
        whole["teachers"] = {name: node for name, node in whole["teachers"].items() if name in wanted}
        whole = _fewer(whole, changes)
    if any(path.partition(".")[0] == "teachers" for path in changes):
        raise LimbeckError("teachers is a list of those to listen to; each is trained once, for all arms alike")
    return changed(whole, changes)


def _fewer(whole: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's combination is of all its teachers: one alone has none, and who is gone has no weight in it."""
    said = whole.get("combination")
    if said is None or "combination" in changes:
        return whole
    if len(whole["teachers"]) < 2:
        return {name: value for name, value in whole.items() if name != "combination"}
    if isinstance(said, Mapping) and said.get("weights"):
        said = {**said, "weights": {name: one for name, one in said["weights"].items() if name in whole["teachers"]}}
    return whole | {"combination": said}


def _listening(whole: dict[str, Any], recipe: Recipe, seed: int, shared: Shared) -> dict[str, Any]:
    """With the teachers that the arm ``teacher`` trained, and the cache that the study shares."""
    for name, node in whole["teachers"].items():
        file = trained(shared.folder, seed, name)
        if node["weights"] is None and recipe.teaching is not None and file.exists():
            node |= {"weights": str(file.resolve()), "stop": None}
    tapped = any(set(stage.get("taps") or {}) - {"student"} for stage in whole["stages"])
    if shared.views and not tapped and whole["cache"] is None and whole["teachers"]:
        whole["data"] = {**whole["data"], "views": {**_node(whole["data"]["views"]), "per_sample": shared.views}}
        whole["cache"] = {"root": str((shared.folder / "cache").resolve()), "precision": "float32"}
    return whole


def _control(whole: dict[str, Any], arm: Arm, recipe: Recipe, shared: Shared) -> dict[str, Any]:
    """The labels are all that is left of each stage's objective."""
    whole |= {
        "teachers": {},
        "assistants": {},
        "self_teachers": {},
        "peers": {},
        "generations": None,
        "cache": None,
        "teaching": None,
    }
    whole["training"]["sampling"] = "plain"
    whole.pop("combination", None)
    pace = shared.pace if arm.role == "longer" else 1.0
    for stage, length in zip(whole["stages"], shared.lengths, strict=True):
        terms = [term for term in stage["objective"].values() if term["use"] == "CrossEntropy"]
        truth = {**(terms[0] if terms else {"use": "CrossEntropy"}), "weight": 1.0}
        if arm.role == "smoothed":
            truth["label_smoothing"] = (recipe.study or Study()).smoothing
        stage |= {"objective": {"truth": truth}, "taps": {}}
        stage["training"] = {key: value for key, value in stage["training"].items() if key != "sampling"}
        if arm.role == "longer":
            stage.pop("epochs", None)
            stage |= {"steps": max(1, round(pace * length)), "training": _drawn_out(stage, whole, pace)}
    return whole


def _drawn_out(stage: Mapping[str, Any], whole: Mapping[str, Any], pace: float) -> dict[str, Any]:
    """The changes of a stage's training, with the lengths that its scheduler counts in times ``pace``."""
    changes = dict(stage.get("training") or {})
    own = {**(whole["training"]["scheduler"] or {}), **(changes.get("scheduler") or {})}
    longer = {
        key: [max(1, round(pace * one)) for one in value] if isinstance(value, list) else max(1, round(pace * value))
        for key, value in own.items()
        if key in _LENGTHS and value is not None
    }
    return {**changes, "scheduler": {**(changes.get("scheduler") or {}), **longer}} if longer else changes


def trained(folder: Path, seed: int, name: str) -> Path:
    """Where the teacher ``name`` of that seed is kept."""
    return folder / "cells" / "teacher" / str(seed) / f"{name}.safetensors"


def _node(said: Any) -> dict[str, Any]:
    return {"use": said} if isinstance(said, str) else dict(said)


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
