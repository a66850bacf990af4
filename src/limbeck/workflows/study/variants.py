"""The variants of a study, each as a recipe of its own: teacher, matched baselines, the recipe, and its changes.

The baselines differ from the recipe in what they are named for: ``student_only`` trains the same student on the same
views with the same batches, optimizer, schedule and number of steps, by the supervised losses; ``equal_time`` for as
many steps as fit in the wall time of the distilled student; ``label_smoothing`` with label smoothing (Szegedy et al.,
CVPR 2016, https://arxiv.org/abs/1512.00567), which explains a part of the gain from a teacher (Yuan et al., CVPR 2020,
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
from limbeck.recipe.constructors import check_constructors
from limbeck.recipe.overrides import apply_changes
from limbeck.recipe.registry import resolve_target
from limbeck.recipe.schema import to_plain, validate
from limbeck.recipe.study_schema import BASELINES, BUILTIN_VARIANTS, Study
from limbeck.workflows._job.stages import baseline_weights

__all__ = ["StudyContext", "Variant", "check_variants", "dry_run_recipe", "make_trial_recipe", "make_variants"]

_BUILTIN = {
    "teacher": (Role.TEACHER, "Teacher"),
    "student_only": (Role.BASELINE, "Student without a teacher"),
    "equal_time": (Role.BASELINE_EQUAL_TIME, "Student without a teacher, equal wall time"),
    "label_smoothing": (Role.BASELINE_LABEL_SMOOTHING, "Student without a teacher, label smoothing"),
    "distilled": (Role.DISTILLED, "Distilled student"),
}
_SCHEDULER_LENGTHS = ("milestones", "step_size", "T_max", "T_0", "total_iters")
"""Settings of schedulers that count steps or epochs."""


@final
@dataclass(frozen=True, slots=True)
class Variant:
    """One variant: its name, its role in the comparison, and its changes of the recipe."""

    name: str
    role: Role
    title: str
    overrides: Mapping[str, Any]

    @property
    def uses_teachers(self) -> bool:
        """Whether the student is distilled."""
        return self.role == Role.DISTILLED


@final
@dataclass(frozen=True, slots=True)
class StudyContext:
    """What all trials of a study share.

    Attributes:
        study_dir: the folder.
        stage_steps: optimizer steps of each stage of the recipe.
        time_ratio: wall time of a distilled training divided by that of the baseline.
        num_views: views of a sample in the shared cache; 0: as in the recipe, without a shared cache.
    """

    study_dir: Path
    stage_steps: Sequence[int]
    time_ratio: float = 1.0
    num_views: int = 0


def make_variants(recipe: Recipe) -> dict[str, Variant]:
    """The variants of the recipe's study by name, in order.

    ``teacher`` only where the recipe has teachers, ``label_smoothing`` only where a supervised loss has that setting.

    Raises:
        LimbeckError: a variant has the name of a teacher or assistant.
    """
    config = recipe.study or Study()
    baselines = BASELINES if config.baselines is None else config.baselines
    variants = {
        name: Variant(name, *_BUILTIN[name], {})
        for name in BUILTIN_VARIANTS
        if (recipe.teachers if name == "teacher" else name in baselines or name not in BASELINES)
    }
    smoothing = Role.BASELINE_LABEL_SMOOTHING.value.removeprefix("baseline_")
    if smoothing in variants and not _takes_label_smoothing(recipe):
        # The default baselines leave out what does not exist; one that the recipe names is an error.
        if config.baselines is not None:
            raise LimbeckError(
                "study.baselines: label_smoothing needs a supervised loss with that setting, and the losses of this "
                "recipe have none: remove it"
            )
        del variants[smoothing]
    for name, changes in config.variants.items():
        if name in recipe.teachers or name in recipe.assistants:
            raise LimbeckError(f"study.variants.{name}: a teacher or assistant has that name already: choose another")
        texts = [(path.removeprefix("stages.0."), str(value)) for path, value in changes.items()]
        title = ", ".join(f"{path}={text if len(text) <= 40 else f'{text[:39]}…'}" for path, text in texts)
        variants[name] = Variant(name, Role.DISTILLED, title, dict(changes))
    return variants


def make_trial_recipe(recipe: Recipe, variant: Variant, seed: int, context: StudyContext) -> Recipe:
    """The recipe of one trial, complete in itself.

    Raises:
        LimbeckError: the variant changes a setting that does not exist or is shared by all variants.
    """
    recipe_dict = to_plain(recipe) | {"seed": seed, "study": None, "baselines": [], "export": {"to": []}}
    try:
        if variant.role.is_baseline:
            recipe_dict = _baseline_recipe(recipe_dict, variant, recipe, context)
        elif variant.uses_teachers:
            recipe_dict = _distilled_recipe(_apply_changes(recipe_dict, variant), recipe, seed, context)
        return validate(Recipe, recipe_dict)
    except LimbeckError as error:
        raise LimbeckError(f"study.variants.{variant.name}: {error}") from error


def dry_run_recipe(recipe: Recipe, variant: Variant, folder: Path) -> Recipe:
    """The recipe of a trial with stages of one step, to check or to compare it."""
    return make_trial_recipe(recipe, variant, recipe.seed, StudyContext(folder, [1] * len(recipe.stages)))


def check_variants(recipe: Recipe) -> None:
    """Check the recipe of every variant without its data; an error names the variant."""
    for variant in make_variants(recipe).values():
        trial_recipe = dry_run_recipe(recipe, variant, Path())
        try:
            check_constructors(resolve_recipe(trial_recipe))
        except LimbeckError as error:
            raise LimbeckError(f"study.variants.{variant.name}: {error}") from error


def _apply_changes(recipe_dict: dict[str, Any], variant: Variant) -> dict[str, Any]:
    """The recipe with the changes of ``variant``; ``teachers: [NAME, ...]`` selects among the teachers."""
    changes, teachers, ensemble = dict(variant.overrides), recipe_dict["teachers"], recipe_dict.get("ensemble")
    if isinstance(changes.get("teachers"), list | tuple):
        names = changes.pop("teachers")
        for name in names:
            if not isinstance(name, str) or name not in teachers:
                raise LimbeckError(f"teachers: there is no teacher {name!r}: {suggest_names(str(name), teachers)}")
        recipe_dict["teachers"] = {name: node for name, node in teachers.items() if name in names}
        if ensemble is not None and "ensemble" not in changes:
            if len(recipe_dict["teachers"]) < 2:
                del recipe_dict["ensemble"]
            elif isinstance(ensemble, Mapping) and (weights := ensemble.get("weights")):
                weights = {name: weight for name, weight in weights.items() if name in names}
                recipe_dict["ensemble"] = {**ensemble, "weights": weights}
    if any(path.partition(".")[0] == "teachers" for path in changes):
        raise LimbeckError("teachers must be a list of names; each teacher is trained once, for all variants alike")
    return apply_changes(recipe_dict, changes)


def _distilled_recipe(recipe_dict: dict[str, Any], recipe: Recipe, seed: int, context: StudyContext) -> dict[str, Any]:
    """With the weights of the trained teachers, and the cache that the variants share."""
    for name, node in recipe_dict["teachers"].items():
        file = context.study_dir / "trials" / "teacher" / str(seed) / f"{name}.safetensors"
        if node["weights"] is None and recipe.teacher_training is not None and file.exists():
            node |= {"weights": str(file.resolve()), "train_fraction": None}
    has_feature_layers = any(set(stage.get("feature_layers") or {}) - {"student"} for stage in recipe_dict["stages"])
    if context.num_views and not has_feature_layers and recipe_dict["cache"] is None and recipe_dict["teachers"]:
        augment = recipe_dict["data"]["augment"]
        augment = {"use": augment} if isinstance(augment, str) else augment
        recipe_dict["data"] = {**recipe_dict["data"], "augment": {**augment, "num_views": context.num_views}}
        recipe_dict["cache"] = {"root": str((context.study_dir / "cache").resolve()), "dtype": "float32"}
    return recipe_dict


def _baseline_recipe(
    recipe_dict: dict[str, Any], variant: Variant, recipe: Recipe, context: StudyContext
) -> dict[str, Any]:
    """Without teachers, with the supervised losses of each stage."""
    recipe_dict |= {"teachers": {}, "assistants": {}, "self_teachers": {}, "peers": {}}
    recipe_dict |= {"generations": None, "cache": None, "teacher_training": None}
    recipe_dict["training"]["batch_pairing"] = "none"
    recipe_dict.pop("ensemble", None)
    for stage, num_steps in zip(recipe_dict["stages"], context.stage_steps, strict=True):
        objective = _supervised_losses(stage["objective"], recipe)
        if variant.role == Role.BASELINE_LABEL_SMOOTHING:
            for loss in objective.values():
                if "label_smoothing" in signature(_loss_class(loss, recipe)).parameters:
                    loss["label_smoothing"] = (recipe.study or Study()).label_smoothing
        training = {key: value for key, value in stage["training"].items() if key != "batch_pairing"}
        stage |= {"objective": objective, "feature_layers": {}, "training": training}
        if variant.role == Role.BASELINE_EQUAL_TIME:
            stage.pop("epochs", None)
            stage["steps"] = max(1, round(context.time_ratio * num_steps))
            base_scheduler, scheduler = recipe_dict["training"]["scheduler"] or {}, training.get("scheduler") or {}
            if lengths := _scale_lengths({**base_scheduler, **scheduler}, context.time_ratio):
                training["scheduler"] = {**scheduler, **lengths}
    return recipe_dict


def _supervised_losses(objective: Mapping[str, Any], recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The losses of ``objective`` that use the target only; the supervised loss of the task where there is none."""
    losses = {
        name: loss for name, loss in objective.items() if loss_attribute(_loss_class(loss, recipe), "supervised")
    } or {"target": {"use": _task_loss(recipe)}}
    weights = baseline_weights({name: loss.get("weight", 1.0) for name, loss in losses.items()})
    return {name: {**loss, "weight": weights[name]} for name, loss in losses.items()}


def _task_loss(recipe: Recipe) -> str:
    task = resolve_target(recipe.task.use, ["task"], plugins=recipe.plugins, config_path="task")[1]
    name = getattr(task, "supervised_loss", None)
    if not isinstance(name, str):
        raise LimbeckError(
            f"task: {recipe.task.use} must have the class attribute supervised_loss, the name of the loss on the "
            "target that trains baselines"
        )
    return name


def _takes_label_smoothing(recipe: Recipe) -> bool:
    """Whether a supervised loss of any stage has label smoothing."""
    losses = [
        loss for stage in recipe.stages for loss in _supervised_losses(to_plain(stage)["objective"], recipe).values()
    ]
    return any("label_smoothing" in signature(_loss_class(loss, recipe)).parameters for loss in losses)


def _loss_class(loss: Mapping[str, Any], recipe: Recipe) -> Callable[..., Any]:
    return resolve_target(loss["use"], ["loss"], plugins=recipe.plugins)[1]


def _scale_lengths(scheduler: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The settings of ``scheduler`` that count steps or epochs, times ``factor``.

    >>> _scale_lengths({"use": "MultiStepLR", "milestones": [4, 8]}, 1.5)
    {'milestones': [6, 12]}
    """

    def scale(length: Any) -> Any:
        return [scale(item) for item in length] if isinstance(length, list) else max(1, round(factor * length))

    return {key: scale(value) for key, value in scheduler.items() if key in _SCHEDULER_LENGTHS and value is not None}
