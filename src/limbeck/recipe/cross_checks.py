"""Consistency of a recipe's settings: names exist, nothing is missing, and combinations are supported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.recipe.resolved_node import ResolvedNode
from limbeck.recipe.schema import Recipe, SchedulerNode, Stage
from limbeck.recipe.training_order import TrainingPair
from limbeck.recipe.validation import join_path

__all__ = ["check_consistency"]

_LAYER_SETTINGS: Final = ("layer", "layers", "first_layer", "last_layer", "deepest_layer")


def check_consistency(
    recipe: Recipe,
    losses: Mapping[str, Mapping[str, ResolvedNode]],
    teachers: Mapping[str, ResolvedNode] = MappingProxyType({}),
    ensemble: ResolvedNode | None = None,
) -> None:
    """Raise ``LimbeckError`` for the first inconsistency.

    Args:
        recipe: the recipe.
        losses: resolved losses by name, by the path of their stage.
        teachers: resolved teachers by name.
        ensemble: resolved ensemble.
    """
    external = [name for name, teacher in teachers.items() if teacher.kind == "teacher"]
    errors = chain(
        _check_external_teachers(recipe, external),
        _check_recipe(recipe, external),
        _check_assistants(recipe),
        _check_self_teachers_and_peers(recipe, losses),
        _check_stages(recipe, losses),
        () if ensemble is None else _check_ensemble(recipe, ensemble, losses),
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


def _check_ensemble(
    recipe: Recipe, ensemble: ResolvedNode, losses: Mapping[str, Mapping[str, ResolvedNode]]
) -> Iterator[str]:
    weights = ensemble.settings.get("weights")
    for name in weights if isinstance(weights, Mapping) else ():
        if name not in recipe.teachers:
            yield f"ensemble.weights: no teacher is named {name!r}; there are: {suggest_names(name, recipe.teachers)}"
    if ensemble.use == "MeanLogits" and not weights:  # what losses get without an ensemble
        return
    prefix = f"ensemble: {ensemble.use} combines several teachers, and"
    if len(recipe.teachers) < 2:
        yield f"{prefix} the recipe has {len(recipe.teachers) or 'none'}: remove it, or add teachers"
    if recipe.assistant_mode == "dense" and recipe.assistants:
        yield f"{prefix} with assistant_mode: dense each loss is computed for each of them: remove one of the two"
    all_losses = [loss for path, stage in losses.items() if path != "teacher_training" for loss in stage.values()]
    if all(
        not getattr(loss.target, "needs_teacher", True) or loss.config.get("teacher") is not None for loss in all_losses
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
    first_index: dict[str, int] = {}
    for i, stage in enumerate(recipe.stages):
        if stage.name in first_index:
            yield (
                f"stages.{i}.name: {stage.name!r} is the name of stages.{first_index[stage.name]} already: choose "
                "another"
            )
        first_index[stage.name] = i
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


def _check_stages(recipe: Recipe, losses: Mapping[str, Mapping[str, ResolvedNode]]) -> Iterator[str]:
    for config_path, stage in recipe.all_stages():
        is_teacher_training = config_path == "teacher_training"
        self_teachers = () if is_teacher_training else tuple(recipe.self_teachers)
        teachers = () if is_teacher_training else (*recipe.teachers, *recipe.assistants, *self_teachers)
        yield from _check_feature_layers(stage, config_path, teachers)
        pairs = [TrainingPair("student", ())] if is_teacher_training else recipe.training_order()
        pairs = [TrainingPair(student, (*teachers, *self_teachers)) for student, teachers in pairs]
        for name, loss in losses[config_path].items():
            loss_path = join_path(config_path, "objective", name)
            yield from _check_teacher(loss, loss_path, pairs)
            for pair in pairs:
                yield from _check_loss(loss, loss_path, stage, pair, is_dense=recipe.assistant_mode == "dense")
        yield from _check_scheduler(recipe.stage_training(stage, config_path=config_path).scheduler, config_path)


def _check_feature_layers(stage: Stage, config_path: str, teachers: Sequence[str]) -> Iterator[str]:
    networks = ["student", *teachers]
    for network in stage.feature_layers:
        if network not in networks:
            # In teacher_training the teacher is the student of its own training.
            hint = " (in teacher_training, the teacher is called student)" if config_path == "teacher_training" else ""
            yield (
                f"{config_path}.feature_layers: no network is named {network!r}; "
                f"there are: {suggest_names(network, networks)}{hint}"
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


def _check_self_teachers_and_peers(recipe: Recipe, losses: Mapping[str, Mapping[str, ResolvedNode]]) -> Iterator[str]:
    from limbeck.losses import BYOTLoss

    used_names = {**dict.fromkeys(recipe.teachers, "teacher"), **dict.fromkeys(recipe.assistants, "assistant")}
    for key, names in (("self_teachers", recipe.self_teachers), ("peers", recipe.peers)):
        for name in names:
            if name in used_names:
                yield f"{key}.{name}: a {used_names[name]} has that name already: choose another"
            used_names[name] = "teacher made of the student"
    for config_path, stage in recipe.all_stages():
        training = recipe.stage_training(stage, config_path=config_path)
        for name, loss in losses[config_path].items():
            if loss.target is BYOTLoss and (training.ema_decay is not None or training.keep_weights == "best"):
                yield (
                    f"{join_path(config_path, 'objective', name)}: its heads are those of the last step, which do not "
                    "fit other weights of the student: remove ema_decay, and set keep_weights: last"
                )
        if recipe.peers and (stage.feature_layers or stage.freeze or training.batch_pairing != "none"):
            key = "feature_layers" if stage.feature_layers else "freeze" if stage.freeze else "training.batch_pairing"
            yield f"{config_path}.{_one_student_message(key)}"
    for key in ("self_teachers", "assistants", "cache"):
        if recipe.peers and getattr(recipe, key):
            yield _one_student_message(key)


def _one_student_message(key: str) -> str:
    return f"{key}: it is for one student, and the recipe has peers: remove {key}, or the peers"


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
            f"there are: {suggest_names(teacher, known_teachers)}"
        )
    yield (
        f"{config_path}.teacher: {incomplete_pair.student} goes through the same stages and learns from "
        f"{' and '.join(incomplete_pair.teachers)}, not from {teacher}: remove `teacher`, so that the loss uses the "
        "teachers of each student"
    )


def _check_loss(
    loss: ResolvedNode, config_path: str, stage: Stage, pair: TrainingPair, *, is_dense: bool
) -> Iterator[str]:
    teacher, stage_path = loss.settings.get("teacher"), config_path.rpartition(".objective.")[0]
    if getattr(loss.target, "needs_teacher", False) and not pair.teachers:
        subject = "teacher_training" if stage_path == "teacher_training" else "the recipe"
        yield (
            f"{config_path}: {loss.use} compares with a teacher, and {subject} has none: choose a loss on the target, "
            "or add teachers"
        )
    uses_every_teacher = is_dense or len(pair.teachers) == 1
    teachers = (teacher,) if isinstance(teacher, str) else pair.teachers if uses_every_teacher else ()
    for setting, layer in _used_layers(loss) if ":" not in loss.use else ():
        for network in (pair.student, *teachers):
            if layer not in stage.feature_layers.get(network, {}):
                yield (
                    f"{config_path}.{setting}: no feature layer of {network} is named {layer!r}: name the module to "
                    f"read, {stage_path}.feature_layers: {{{network}: {{{layer}: PATH}}}}"
                )


def _used_layers(loss: ResolvedNode) -> Iterator[tuple[str, str]]:
    """The settings of ``loss`` that name feature layers, with each name."""
    for setting in _LAYER_SETTINGS:
        value: Any = loss.settings.get(setting)
        for layer in value if isinstance(value, list) else [value]:
            if isinstance(layer, str):
                yield setting, layer


def _check_scheduler(scheduler: SchedulerNode | None, config_path: str) -> Iterator[str]:
    if scheduler is not None and scheduler.use == "ReduceLROnPlateau" and scheduler.interval == "step":
        yield (
            f"{config_path}: ReduceLROnPlateau monitors the validation loss, which is measured once an epoch: "
            "set interval: epoch in training.scheduler"
        )
