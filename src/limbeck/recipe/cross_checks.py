"""Whether the parts of a recipe agree with each other: names that are spoken of exist, and nothing is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.recipe.assistant_chain import TrainingPair
from limbeck.recipe.messages import join_path
from limbeck.recipe.resolved_node import ResolvedNode
from limbeck.recipe.schema import Recipe, SchedulerNode, Stage

__all__ = ["check_consistency"]


def check_consistency(
    recipe: Recipe, losses: Mapping[str, Mapping[str, ResolvedNode]], teachers: Mapping[str, ResolvedNode] = MappingProxyType({}),
    ensemble: ResolvedNode | None = None,
) -> None:  # fmt: skip
    """Raise ``LimbeckError`` for the first disagreement.

    ``losses`` are checked, by the path of their stage; ``teachers`` likewise, by name; ``ensemble`` likewise.
    """
    external = [name for name, teacher in teachers.items() if teacher.kind == "teacher"]
    ensemble_errors = () if ensemble is None else _check_ensemble(recipe, ensemble, losses)
    for message in (
        *_check_external_teachers(recipe, external),
        *_check_recipe(recipe, losses, external),
        *ensemble_errors,
    ):
        raise LimbeckError(message)


def _check_external_teachers(recipe: Recipe, external: Sequence[str]) -> Iterator[str]:
    """What a teacher cannot have that only answers."""
    for name in external:
        teacher = recipe.teachers[name]
        if teacher.weights is not None:
            yield f"teachers.{name}.weights: {teacher.use} has no weights to read: leave them away"
        if teacher.backend != "eager":
            yield f"teachers.{name}.backend: {teacher.use} answers by itself: leave backend away"
        for config_path, stage in recipe.all_stages():
            if stage.feature_layers.get(name):
                yield f"{config_path}.feature_layers.{name}: {teacher.use} gives answers only, so nothing in it can be tapped"


def _check_ensemble(
    recipe: Recipe, ensemble: ResolvedNode, losses: Mapping[str, Mapping[str, ResolvedNode]]
) -> Iterator[str]:  # fmt: skip
    """Whether there is anything to combine, and somebody who listens to it."""
    weights = ensemble.settings.get("weights")
    for name in weights if isinstance(weights, Mapping) else ():
        if name not in recipe.teachers:
            yield f"ensemble.weights: no teacher is named {name!r}; there are: {suggest_names(name, recipe.teachers)}"
    if ensemble.use == "MeanLogits" and not weights:  # the default, which nobody asked for
        return
    prefix = f"ensemble: {ensemble.use} says how several teachers speak together, and"
    if len(recipe.teachers) < 2:
        yield f"{prefix} the recipe has {len(recipe.teachers) or 'none'}: leave it away, or add teachers"
    if recipe.assistant_mode == "dense" and recipe.assistants:
        yield f"{prefix} with assistant_mode: dense each loss listens to each of them by itself: leave one of the two away"
    all_losses = [
        loss for config_path, stage in losses.items() if config_path != "teacher_training" for loss in stage.values()
    ]
    if all(":" not in loss.use and loss.config.get("teacher", "none") is not None for loss in all_losses):
        yield f"{prefix} every loss names its own teacher: leave it away, or a loss's `teacher`"


def _check_recipe(
    recipe: Recipe, losses: Mapping[str, Mapping[str, ResolvedNode]], external: Sequence[str]
) -> Iterator[str]:
    if not recipe.stages:
        yield (
            "stages: a recipe needs at least one, such as "
            "{name: distill, epochs: 30, objective: {kd: {use: KDLoss, weight: 0.9}}}"
        )
    if recipe.cache is not None and not recipe.teachers:
        yield "cache: it keeps what teachers answer, and the recipe has none: leave it away, or add teachers"
    yield from _check_stage_names(recipe)
    # What a user's own function builds is known once it is built; Job looks then.
    untrained = [
        name for name, teacher in recipe.teachers.items()
        if teacher.weights is None and name not in external and ":" not in teacher.use
    ]  # fmt: skip
    if untrained and recipe.teacher_training is None:
        yield (
            f"teachers.{untrained[0]}: it has no weights, and there is no `teacher_training` to train it by: "
            "give weights, a file or a run folder, or add teacher_training: {epochs: …, objective: …}"
        )
    for name in untrained:
        if recipe.teachers[name].class_names is not None:
            yield (
                f"teachers.{name}.class_names: it has no weights, so it is trained here and learns the data's classes: "
                "leave class_names away, or give weights"
            )
    yield from _check_assistants(recipe)
    yield from _check_self_teachers_and_peers(recipe, losses)
    for config_path, stage in recipe.all_stages():
        is_teacher_training = config_path == "teacher_training"
        self_teachers = [] if is_teacher_training else list(recipe.self_teachers)
        yield from _check_feature_layers(
            stage, config_path, [] if is_teacher_training else [*recipe.teachers, *recipe.assistants, *self_teachers]
        )
        pairs = [TrainingPair("student", ())] if is_teacher_training else recipe.training_order()
        chain = [TrainingPair(student, (*teachers, *self_teachers)) for student, teachers in pairs]
        for name, loss in losses[config_path].items():
            yield from _check_teacher(loss, join_path(config_path, "objective", name), chain)
            for pair in chain:
                yield from _check_loss(
                    loss,
                    join_path(config_path, "objective", name),
                    stage,
                    pair,
                    per_teacher=recipe.assistant_mode == "dense",
                )
        yield from _check_scheduler(recipe.stage_training(stage, config_path=config_path).scheduler, config_path)


def _check_stage_names(recipe: Recipe) -> Iterator[str]:
    first_index: dict[str, int] = {}
    for i, stage in enumerate(recipe.stages):
        if stage.name in first_index:
            yield f"stages.{i}.name: {stage.name!r} is the name of stages.{first_index[stage.name]} already: choose another"
        first_index[stage.name] = i


def _check_feature_layers(stage: Stage, config_path: str, teachers: list[str]) -> Iterator[str]:
    networks = ["student", *teachers]
    for network in stage.feature_layers:
        if network not in networks:
            # In teacher_training the network that learns is the teacher, and it is the student of its own training.
            hint = " (while a teacher is taught, it is called student)" if config_path == "teacher_training" else ""
            yield f"{config_path}.feature_layers: no network is named {network!r}; there are: {suggest_names(network, networks)}{hint}"


def _check_assistants(recipe: Recipe) -> Iterator[str]:
    for name in recipe.assistants:
        if name in recipe.teachers:
            yield f"assistants.{name}: a teacher has that name already: choose another"
        if not recipe.teachers:
            yield f"assistants.{name}: an assistant learns from the teachers, and the recipe has none: add teachers"
    if not recipe.assistants and recipe.assistant_mode == "dense":
        yield (
            "assistant_mode: dense says who teaches assistants, and the recipe has none: add assistants, or leave "
            "assistant_mode away"
        )
    if not recipe.assistants and "no_assistants" in recipe.baselines:
        yield "baselines: no_assistants is the student without assistants, and the recipe has none: leave it away"


def _check_self_teachers_and_peers(recipe: Recipe, losses: Mapping[str, Mapping[str, ResolvedNode]]) -> Iterator[str]:
    """What stands beside the student: teachers made of it, and peers that learn with it."""
    used_names = {**dict.fromkeys(recipe.teachers, "teacher"), **dict.fromkeys(recipe.assistants, "assistant")}
    for key, names in (("self_teachers", recipe.self_teachers), ("peers", recipe.peers)):
        for name in names:
            if name in used_names:
                yield f"{key}.{name}: a {used_names[name]} has that name already: choose another"
    duplicates = [name for name in recipe.peers if name in recipe.self_teachers]
    if duplicates:
        yield f"peers.{duplicates[0]}: a teacher made of the student has that name already: choose another"
    for config_path, stage in recipe.all_stages():
        training = recipe.stage_training(stage, config_path=config_path)
        for name, loss in losses[config_path].items():
            if loss.use == "BYOTLoss" and (training.ema_decay is not None or training.keep_weights == "best"):
                yield (
                    f"{join_path(config_path, 'objective', name)}: its heads are those of the last step, and training keeps other "
                    "weights of the student, which they do not fit: leave ema_decay away, and "
                    "keep_weights: last"
                )
        if recipe.peers and (stage.feature_layers or stage.freeze or training.batch_pairing != "none"):
            key = "feature_layers" if stage.feature_layers else "freeze" if stage.freeze else "training.batch_pairing"
            yield f"{config_path}.{key}: it is for one student, and the recipe has peers: leave {key} away, or the peers"
    for key in ("self_teachers", "assistants", "cache"):
        if recipe.peers and getattr(recipe, key):
            yield f"{key}: it is for one student, and the recipe has peers: leave {key} away, or the peers"


def _check_teacher(loss: ResolvedNode, config_path: str, chain: list[TrainingPair]) -> Iterator[str]:
    """Whether the teacher that a term names is there for everyone who learns by it."""
    teacher = loss.settings.get("teacher")
    known_teachers = list(dict.fromkeys(name for pair in chain for name in (*pair.teachers, pair.student)))[:-1]
    incomplete_pair = next((pair for pair in chain if teacher not in pair.teachers), None)
    if not isinstance(teacher, str) or incomplete_pair is None:
        return
    if teacher not in known_teachers:
        yield f"{config_path}.teacher: no teacher is named {teacher!r}; there are: {suggest_names(teacher, known_teachers)}"
    teacher_names = " and ".join(incomplete_pair.teachers)
    yield (
        f"{config_path}.teacher: {incomplete_pair.student} goes through the same stages and learns from {teacher_names}, not from "
        f"{teacher}: leave `teacher` away, and the loss listens to whoever teaches"
    )


def _check_loss(
    loss: ResolvedNode, config_path: str, stage: Stage, pair: TrainingPair, *, per_teacher: bool
) -> Iterator[str]:
    teacher = loss.settings.get("teacher")
    is_builtin = ":" not in loss.use
    if is_builtin and "teacher" in loss.config and not pair.teachers:
        reason = (
            "and a teacher is taught without one"
            if config_path.startswith("teacher_training")
            else "and the recipe has none"
        )
        yield f"{config_path}: {loss.use} compares with a teacher, {reason}: choose a loss on the target, or add teachers"
    uses_one_teacher = per_teacher or len(pair.teachers) == 1
    compared_teachers = [teacher] if isinstance(teacher, str) else list(pair.teachers) if uses_one_teacher else []
    for setting, layer in _used_layers(loss) if is_builtin else ():
        for network in (pair.student, *compared_teachers):
            if layer not in stage.feature_layers.get(network, {}):
                stage_path = config_path.rpartition(".objective.")[0]
                yield (
                    f"{config_path}.{setting}: no feature layer of {network} is named {layer!r}: name the module to read, "
                    f"{stage_path}.feature_layers: {{{network}: {{{layer}: PATH}}}}"
                )


def _used_layers(loss: ResolvedNode) -> Iterator[tuple[str, str]]:
    """The names of feature layers in a loss's settings, one or several in each."""
    for setting in ("layer", "layers", "first_layer", "last_layer", "deepest_layer"):
        value: Any = loss.settings.get(setting)
        yield from (
            (setting, layer) for layer in (value if isinstance(value, list) else [value]) if isinstance(layer, str)
        )


def _check_scheduler(scheduler: SchedulerNode | None, config_path: str) -> Iterator[str]:
    if scheduler is not None and scheduler.use == "ReduceLROnPlateau" and scheduler.interval == "step":
        yield (
            f"{config_path}: ReduceLROnPlateau watches the validation loss, which is measured once an epoch: "
            "set interval: epoch in training.scheduler"
        )
