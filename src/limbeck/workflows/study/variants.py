"""The variants of a study, each as a recipe of its own: teacher, matched baselines, the recipe itself, its variants.

The baselines differ from the recipe in nothing but what they are named for. ``student_only`` has the same start,
views, batch, optimizer, schedule and number of steps, and the labels as its only teacher; ``equal_time`` is the same
for as many steps as fit in the distilled student's wall time; ``label_smoothing`` is the same
with label smoothing (Szegedy et al., CVPR 2016,
https://arxiv.org/abs/1512.00567), since a part of what a teacher gives is that (Yuan et al., CVPR 2020,
https://arxiv.org/abs/1909.11723).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, final

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.protocols import loss_attribute
from limbeck.core.roles import Role
from limbeck.recipe import Recipe, resolve_recipe
from limbeck.recipe.overrides import apply_changes
from limbeck.recipe.registry import resolve_target
from limbeck.recipe.schema import to_plain, validate
from limbeck.recipe.study_schema import BASELINES, BUILTIN_VARIANTS, Study
from limbeck.workflows._job.distillers import baseline_weights

__all__ = ["StudyContext", "Variant", "check_variants", "make_trial_recipe", "make_variants"]

_VARIANT_TITLES = {
    "teacher": "Teacher", "student_only": "Student without a teacher",
    "equal_time": "Student without a teacher, equal wall time",
    "label_smoothing": "Student without a teacher, label smoothing", "distilled": "Distilled student",
}  # fmt: skip
_VARIANT_ROLES = {
    "teacher": Role.TEACHER, "student_only": Role.BASELINE, "equal_time": Role.BASELINE_EQUAL_TIME,
    "label_smoothing": Role.BASELINE_LABEL_SMOOTHING, "distilled": Role.DISTILLED,
}  # fmt: skip
# Lengths that a scheduler counts in steps or epochs: they are drawn out with the training.
_SCHEDULER_LENGTHS = ("milestones", "step_size", "T_max", "T_0", "total_iters")


@final
@dataclass(frozen=True, slots=True)
class Variant:
    """One variant: what it is called, its part in the comparison, and what it changes of the recipe."""

    name: str
    role: Role
    title: str
    overrides: Mapping[str, Any]

    @property
    def uses_teachers(self) -> bool:
        """Whether it learns from teachers."""
        return self.role == Role.DISTILLED


@final
@dataclass(frozen=True, slots=True)
class StudyContext:
    """What the study found once for all trials.

    Attributes:
        study_dir: of the study.
        stage_steps: optimizer steps of each stage of the recipe.
        time_ratio: wall time of a distilled training divided by that of one alone.
        num_views: how many views of a picture the shared cache holds; 0: the recipe says it, or there is no shared one.
    """

    study_dir: Path
    stage_steps: Sequence[int]
    time_ratio: float
    num_views: int


def make_variants(recipe: Recipe) -> dict[str, Variant]:
    """All variants of the recipe's study, in their order; without teachers there is none of that name.

    Raises:
        LimbeckError: a variant changes what is not there, or has the name of a teacher or assistant.
    """
    study_config = recipe.study or Study()
    omitted = {name for name in BASELINES if name not in study_config.baselines} | (
        set() if recipe.teachers else {"teacher"}
    )
    variants = [
        Variant(name, _VARIANT_ROLES[name], _VARIANT_TITLES[name], {})
        for name in BUILTIN_VARIANTS
        if name not in omitted
    ]
    for name, changes in study_config.variants.items():
        if name in recipe.teachers or name in recipe.assistants:
            raise LimbeckError(f"study.variants.{name}: a teacher or assistant has that name already: choose another")
        change_text = ", ".join(
            f"{path.removeprefix('stages.0.')}={_shorten(value)}" for path, value in changes.items()
        )
        variants.append(Variant(name, Role.DISTILLED, change_text, dict(changes)))
    return {variant.name: variant for variant in variants}


def make_trial_recipe(recipe: Recipe, variant: Variant, seed: int, context: StudyContext) -> Recipe:
    """What one variant trains with one seed, as a recipe that stands by itself."""
    recipe_dict = to_plain(recipe) | {"seed": seed, "study": None, "baselines": [], "export": {"to": []}}
    try:
        if variant.role.is_baseline:
            recipe_dict = _baseline_recipe(recipe_dict, variant, recipe, context)
        elif variant.role == Role.DISTILLED:
            recipe_dict = _distilled_recipe(_apply_changes(recipe_dict, variant), recipe, seed, context)
        return validate(Recipe, recipe_dict)
    except LimbeckError as error:
        raise LimbeckError(f"study.variants.{variant.name}: {error}") from error


def check_variants(recipe: Recipe) -> None:
    """Check the recipe of every variant, as far as that goes without its data; an error names the variant."""
    placeholder_context = StudyContext(Path(), [1] * len(recipe.stages), 1.0, 0)
    for variant in make_variants(recipe).values():
        trial_recipe = make_trial_recipe(recipe, variant, recipe.seed, placeholder_context)
        try:
            resolve_recipe(trial_recipe)
        except LimbeckError as error:
            raise LimbeckError(f"study.variants.{variant.name}: {error}") from error


def _apply_changes(recipe_dict: dict[str, Any], variant: Variant) -> dict[str, Any]:
    changes = dict(variant.overrides)
    teacher_names = changes.get("teachers")
    if isinstance(teacher_names, list | tuple):
        del changes["teachers"]
        for name in teacher_names:
            if name not in recipe_dict["teachers"]:
                raise LimbeckError(
                    f"teachers: there is no teacher {name!r}: {suggest_names(str(name), recipe_dict['teachers'])}"
                )
        recipe_dict["teachers"] = {
            name: node for name, node in recipe_dict["teachers"].items() if name in teacher_names
        }
        recipe_dict = _restrict_ensemble(recipe_dict, changes)
    if any(path.partition(".")[0] == "teachers" for path in changes):
        raise LimbeckError("teachers is a list of those to listen to; each is trained once, for all variants alike")
    return apply_changes(recipe_dict, changes)


def _restrict_ensemble(recipe_dict: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's combination is of all its teachers: one alone has none, and who is gone has no weight in it."""
    ensemble = recipe_dict.get("ensemble")
    if ensemble is None or "ensemble" in changes:
        return recipe_dict
    if len(recipe_dict["teachers"]) < 2:
        return {name: value for name, value in recipe_dict.items() if name != "ensemble"}
    if isinstance(ensemble, Mapping) and ensemble.get("weights"):
        ensemble = {
            **ensemble,
            "weights": {
                name: weight for name, weight in ensemble["weights"].items() if name in recipe_dict["teachers"]
            },
        }
    return recipe_dict | {"ensemble": ensemble}


def _distilled_recipe(recipe_dict: dict[str, Any], recipe: Recipe, seed: int, context: StudyContext) -> dict[str, Any]:
    """With the teachers that the variant ``teacher`` trained, and the cache that the study shares."""
    for name, node in recipe_dict["teachers"].items():
        file = teacher_weights_path(context.study_dir, seed, name)
        if node["weights"] is None and recipe.teacher_training is not None and file.exists():
            node |= {"weights": str(file.resolve()), "train_fraction": None}
    has_feature_layers = any(set(stage.get("feature_layers") or {}) - {"student"} for stage in recipe_dict["stages"])
    if context.num_views and not has_feature_layers and recipe_dict["cache"] is None and recipe_dict["teachers"]:
        recipe_dict["data"] = {
            **recipe_dict["data"],
            "augment": {**_as_node_dict(recipe_dict["data"]["augment"]), "num_views": context.num_views},
        }
        recipe_dict["cache"] = {"root": str((context.study_dir / "cache").resolve()), "dtype": "float32"}
    return recipe_dict


def _baseline_recipe(
    recipe_dict: dict[str, Any], variant: Variant, recipe: Recipe, context: StudyContext
) -> dict[str, Any]:
    """The labels are all that is left of each stage's objective."""
    recipe_dict |= {
        "teachers": {},
        "assistants": {},
        "self_teachers": {},
        "peers": {},
        "generations": None,
        "cache": None,
        "teacher_training": None,
    }
    recipe_dict["training"]["batch_pairing"] = "none"
    recipe_dict.pop("ensemble", None)
    time_ratio = context.time_ratio if variant.role == Role.BASELINE_EQUAL_TIME else 1.0
    for stage, num_steps in zip(recipe_dict["stages"], context.stage_steps, strict=True):
        objective = _supervised_losses(stage["objective"], recipe)
        if variant.role == Role.BASELINE_LABEL_SMOOTHING:
            for loss in objective.values():
                if "label_smoothing" in signature(_loss_class(loss, recipe)).parameters:
                    loss["label_smoothing"] = (recipe.study or Study()).label_smoothing
        stage |= {"objective": objective, "feature_layers": {}}
        stage["training"] = {key: value for key, value in stage["training"].items() if key != "batch_pairing"}
        if variant.role == Role.BASELINE_EQUAL_TIME:
            stage.pop("epochs", None)
            stage |= {
                "steps": max(1, round(time_ratio * num_steps)),
                "training": _stretch_scheduler(stage, recipe_dict, time_ratio),
            }
    return recipe_dict


def _supervised_losses(objective: Mapping[str, Any], recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The losses of ``objective`` that compare with the target only; a cross-entropy where there is none."""
    losses = {
        name: loss for name, loss in objective.items() if loss_attribute(_loss_class(loss, recipe), "supervised")
    } or {"target": {"use": "CrossEntropyLoss"}}
    weights = baseline_weights({name: loss.get("weight", 1.0) for name, loss in losses.items()})
    return {name: {**loss, "weight": weights[name]} for name, loss in losses.items()}


def _loss_class(loss: Mapping[str, Any], recipe: Recipe) -> Callable[..., Any]:
    return resolve_target(loss["use"], ["loss"], plugins=recipe.plugins)[1]


def _stretch_scheduler(stage: Mapping[str, Any], recipe_dict: Mapping[str, Any], time_ratio: float) -> dict[str, Any]:
    """The changes of a stage's training, with the lengths that its scheduler counts in times ``time_ratio``."""
    changes = dict(stage.get("training") or {})
    scheduler = {**(recipe_dict["training"]["scheduler"] or {}), **(changes.get("scheduler") or {})}
    stretched = {
        key: [max(1, round(time_ratio * milestone)) for milestone in value]
        if isinstance(value, list)
        else max(1, round(time_ratio * value))
        for key, value in scheduler.items()
        if key in _SCHEDULER_LENGTHS and value is not None
    }
    return {**changes, "scheduler": {**(changes.get("scheduler") or {}), **stretched}} if stretched else changes


def teacher_weights_path(folder: Path, seed: int, name: str) -> Path:
    """Where the teacher ``name`` of that seed is kept."""
    return folder / "trials" / "teacher" / str(seed) / f"{name}.safetensors"


def _as_node_dict(value: Any) -> dict[str, Any]:
    return {"use": value} if isinstance(value, str) else dict(value)


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
