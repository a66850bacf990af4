"""Consistency of a recipe's settings: names exist, nothing is missing, and combinations are supported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.recipe.resolved_node import ResolvedNode
from limbeck.recipe.schema import Recipe, Stage
from limbeck.recipe.training_order import TrainingPair
from limbeck.utils.validation import join_path

if TYPE_CHECKING:
    from limbeck.recipe.resolve import ResolvedRecipe, ResolvedStage

__all__ = ["check_consistency"]


def check_consistency(resolved: ResolvedRecipe) -> None:
    """Raise ``LimbeckError`` for the first inconsistency."""
    recipe = resolved.recipe
    stages = {f"stages.{i}": stage for i, stage in enumerate(resolved.stages)}
    if resolved.teacher_training is not None:
        stages = {"teacher_training": resolved.teacher_training, **stages}
    external = [name for name, teacher in resolved.teachers.items() if teacher.kind == "teacher"]
    errors = chain(
        _check_external_teachers(recipe, external),
        _check_recipe(recipe, external),
        _check_assistants(recipe),
        _check_self_teachers_and_peers(recipe, stages),
        *(_check_stage(recipe, stage, path) for path, stage in stages.items()),
        _check_ensemble(resolved),
    )
    for message in errors:
        raise LimbeckError(message)


def _check_external_teachers(recipe: Recipe, external: Sequence[str]) -> Iterator[str]:
    for name in external:
        teacher = recipe.teachers[name]
        if teacher.weights is not None:
            yield f"teachers.{name}.weights: {teacher.use} has no weights to read: remove weights"
        if teacher.backend != "eager":
            yield f"teachers.{name}.backend: {teacher.use} has its own runtime: remove backend"
        for config_path, stage in recipe.all_stages():
            if stage.feature_layers.get(name):
                yield f"{config_path}.feature_layers.{name}: {teacher.use} has outputs only, and no layers: remove it"


def _check_ensemble(resolved: ResolvedRecipe) -> Iterator[str]:
    recipe, ensemble = resolved.recipe, resolved.ensemble
    weights = ensemble.settings.get("weights")
    for name in weights if isinstance(weights, Mapping) else ():
        if name not in recipe.teachers:
            yield f"ensemble.weights: no teacher is named {name!r}; available: {suggest_names(name, recipe.teachers)}"
    if getattr(ensemble.target, "allows_single_teacher", False) and not weights:
        return
    prefix = f"ensemble: {ensemble.use} combines several teachers, and"
    if len(recipe.teachers) < 2:
        yield f"{prefix} the recipe has {len(recipe.teachers) or 'none'}: remove it, or add teachers"
    if recipe.assistant_mode == "dense" and recipe.assistants:
        yield f"{prefix} with assistant_mode: dense each loss is computed for each of them: remove one of the two"
    if all(
        not getattr(loss.target, "needs_teacher", True) or loss.config.get("teacher") is not None
        for stage in resolved.stages
        for loss in stage.losses.values()
    ):
        yield f"{prefix} every loss names its own teacher: remove it, or a loss's `teacher`"


def _check_recipe(recipe: Recipe, external: Sequence[str]) -> Iterator[str]:
    if not recipe.stages:
        yield (
            "stages: a recipe needs at least one, such as "
            "{name: distill, epochs: 30, objective: {kd: {use: KDLoss, weight: 0.9}}}"
        )
    if recipe.cache is not None and not recipe.teachers:
        yield "cache: it stores outputs of teachers, and the recipe has none: remove it, or add teachers"
    names = [stage.name for stage in recipe.stages]
    for i, name in enumerate(names):
        if (first := names.index(name)) < i:
            yield f"stages.{i}.name: {name!r} is the name of stages.{first} already: choose another"
    # A teacher built by a user's function is checked when it is built.
    untrained = [
        name
        for name, teacher in recipe.teachers.items()
        if teacher.weights is None and name not in external and ":" not in teacher.use
    ]
    if untrained and recipe.teacher_training is None:
        yield (
            f"teachers.{untrained[0]}: it has no weights, and there is no `teacher_training` to train it: "
            "give weights, a file or a run folder, or add teacher_training: {epochs: …, objective: …}"
        )
    for name in untrained:
        if recipe.teachers[name].class_names is not None:
            yield (
                f"teachers.{name}.class_names: it has no weights, so it is trained here on the data's classes: "
                "remove class_names, or give weights"
            )


def _check_assistants(recipe: Recipe) -> Iterator[str]:
    for name in recipe.assistants:
        if name in recipe.teachers:
            yield f"assistants.{name}: a teacher has that name already: choose another"
        if not recipe.teachers:
            yield f"assistants.{name}: an assistant learns from the teachers, and the recipe has none: add teachers"
    if not recipe.assistants and recipe.assistant_mode == "dense":
        yield (
            "assistant_mode: dense is the mode of assistants, and the recipe has none: add assistants, or remove "
            "assistant_mode"
        )
    if not recipe.assistants and "no_assistants" in recipe.baselines:
        yield "baselines: no_assistants is the student without assistants, and the recipe has none: remove it"


def _check_self_teachers_and_peers(recipe: Recipe, stages: Mapping[str, ResolvedStage]) -> Iterator[str]:
    used_names = {**dict.fromkeys(recipe.teachers, "teacher"), **dict.fromkeys(recipe.assistants, "assistant")}
    for key, names in (("self_teachers", recipe.self_teachers), ("peers", recipe.peers)):
        for name in names:
            if name in used_names:
                yield f"{key}.{name}: a {used_names[name]} has that name already: choose another"
            used_names[name] = "teacher made of the student"
    one_student = "it is for one student, and the recipe has peers: remove"
    for config_path, stage in stages.items():
        training = stage.training
        for name, loss in stage.losses.items():
            if getattr(loss.target, "has_exits", False) and (
                training.ema_decay is not None or training.keep_weights == "best"
            ):
                yield (
                    f"{join_path(config_path, 'objective', name)}: its heads are those of the last step, which do not "
                    "fit other weights of the student: remove ema_decay, and set keep_weights: last"
                )
        if recipe.peers and (stage.stage.feature_layers or stage.stage.freeze or training.batch_pairing != "none"):
            key = "feature_layers" if stage.stage.feature_layers else "freeze"
            key = key if stage.stage.feature_layers or stage.stage.freeze else "training.batch_pairing"
            yield f"{config_path}.{key}: {one_student} {key}, or the peers"
    for key in ("self_teachers", "assistants", "cache"):
        if recipe.peers and getattr(recipe, key):
            yield f"{key}: {one_student} {key}, or the peers"


def _check_stage(recipe: Recipe, resolved: ResolvedStage, config_path: str) -> Iterator[str]:
    stage, is_teacher_training = resolved.stage, config_path == "teacher_training"
    if is_teacher_training:  # where the teacher is the student
        networks, pairs = ["student"], [TrainingPair("student", ())]
    else:
        networks = ["student", *recipe.teachers, *recipe.assistants, *recipe.self_teachers]
        pairs = [TrainingPair(name, (*names, *recipe.self_teachers)) for name, names in recipe.training_order()]
    for network in stage.feature_layers:
        if network not in networks:
            hint = " (in teacher_training, the teacher is called student)" if is_teacher_training else ""
            yield (
                f"{config_path}.feature_layers: no network is named {network!r}; "
                f"available: {suggest_names(network, networks)}{hint}"
            )
    for name, loss in resolved.losses.items():
        loss_path = join_path(config_path, "objective", name)
        yield from _check_teacher(loss, loss_path, pairs)
        for pair in pairs:
            if getattr(loss.target, "needs_teacher", False) and not pair.teachers:
                subject = "teacher_training" if is_teacher_training else "the recipe"
                yield (
                    f"{loss_path}: {loss.use} compares with a teacher, and {subject} has none: choose a loss on the "
                    "target, or add teachers"
                )
            uses_every_teacher = recipe.assistant_mode == "dense" or len(pair.teachers) == 1
            yield from _check_layers(loss, loss_path, stage, pair, uses_every_teacher=uses_every_teacher)
    scheduler = resolved.training.scheduler
    if scheduler is not None and scheduler.use == "ReduceLROnPlateau" and scheduler.interval == "step":
        yield (
            f"{config_path}: ReduceLROnPlateau monitors the validation loss, which is measured once an epoch: "
            "set interval: epoch in training.scheduler"
        )


def _check_teacher(loss: ResolvedNode, config_path: str, pairs: Sequence[TrainingPair]) -> Iterator[str]:
    """Whether every student that is trained with ``loss`` has the teacher that it names."""
    teacher = loss.settings.get("teacher")
    incomplete_pair = next((pair for pair in pairs if teacher not in pair.teachers), None)
    if not isinstance(teacher, str) or incomplete_pair is None:
        return
    known_teachers = list(dict.fromkeys(name for pair in pairs for name in (*pair.teachers, pair.student)))[:-1]
    if teacher not in known_teachers:
        yield (
            f"{config_path}.teacher: no teacher is named {teacher!r}; "
            f"available: {suggest_names(teacher, known_teachers)}"
        )
    yield (
        f"{config_path}.teacher: {incomplete_pair.student} goes through the same stages and learns from "
        f"{' and '.join(incomplete_pair.teachers)}, not from {teacher}: remove `teacher`, so that the loss uses the "
        "teachers of each student"
    )


def _check_layers(
    loss: ResolvedNode, config_path: str, stage: Stage, pair: TrainingPair, *, uses_every_teacher: bool
) -> Iterator[str]:
    """Whether the feature layers that ``loss`` names exist in the student and, where it reads them, its teachers."""
    teacher, teachers = loss.settings.get("teacher"), tuple[str, ...]()
    if getattr(loss.target, "needs_teacher", True):
        teachers = (teacher,) if isinstance(teacher, str) else pair.teachers if uses_every_teacher else ()
    for setting in getattr(loss.target, "layer_settings", ()):
        value: Any = loss.settings.get(setting)
        for layer in value if isinstance(value, list) else [value]:
            for network in (pair.student, *teachers):
                if isinstance(layer, str) and layer not in stage.feature_layers.get(network, {}):
                    yield (
                        f"{config_path}.{setting}: no feature layer of {network} is named {layer!r}: name the module "
                        f"to read, {config_path.rpartition('.objective.')[0]}.feature_layers: "
                        f"{{{network}: {{{layer}: PATH}}}}"
                    )
