"""A recipe with an old key, value or name is refused, and the error names the new one."""

from __future__ import annotations

import pytest

from limbeck.recipe import find_recipe, list_recipes, load_recipe
from limbeck.recipe.overrides import apply_changes, apply_overrides
from limbeck.recipe.yaml_io import dump_yaml, parse_yaml
from limbeck.utils.renamed_keys import RENAMED_KEYS, RENAMED_NAMES, RENAMED_VALUES, find_renamed

BASE = """
task: Classification
data: {use: Digits}
teachers: {big: {use: small_cnn, weights: big.pt}}
student: small_cnn
stages: [{name: distill, epochs: 3, objective: {kd: KDLoss}}]
"""
PLACES = {
    "recipe": "", "data": "data", "augmentation": "data.augment", "transform": "data.augment.transforms.0",
    "model": "student", "teacher": "teachers.big", "self_teacher": "self_teachers.mean", "ensemble": "ensemble",
    "stage": "stages.0", "loss": "stages.0.objective.kd", "loss_weighting": "stages.0.loss_weighting",
    "schedule": "stages.0.objective.kd.temperature", "training": "training", "scheduler": "training.scheduler",
    "cache": "cache", "study": "study",
}  # fmt: skip
USES = {
    "data": "Digits", "augmentation": "Augmentation", "teacher": "small_cnn", "ensemble": "MeanLogits",
    "loss": "KDLoss", "scheduler": "StepLR",
}  # fmt: skip


def with_part(path, value):
    """The recipe with ``value`` at the dotted ``path``, whatever stood there."""
    document = parse_yaml(BASE)
    here, (*steps, last) = document, path.split(".")
    for step in steps:
        if isinstance(here, list):
            here = here[int(step)]
        else:
            if not isinstance(here.get(step), dict | list):
                here[step] = {"use": here[step]} if step in here else [{}] if step == "transforms" else {}
            here = here[step]
    if isinstance(here, list):
        here[int(last)] = value
    else:
        here[last] = value
    return document


def rows():
    for scope, keys in RENAMED_KEYS.items():
        part, _, use = scope.partition(":")
        for old, new in keys.items():
            yield part, use or USES.get(part), old, new


@pytest.mark.parametrize(("part", "use", "old", "new"), list(rows()))
def test_an_old_key_is_refused_and_the_new_one_named(sentence, part, use, old, new):
    path = f"{PLACES[part]}.{old}".lstrip(".")
    node = {**({"use": use} if use else {}), **({"name": "s", "epochs": 1} if part == "stage" else {}), old: 1}
    document = {**parse_yaml(BASE), old: 1} if part == "recipe" else with_part(PLACES[part], node)
    expected = f"{path} is now {path.removesuffix(old)}{new}; rename it"
    assert sentence(load_recipe, dump_yaml(document)) == expected


@pytest.mark.parametrize(
    ("part", "old", "new"), [(part, old, new) for part, names in RENAMED_NAMES.items() for old, new in names.items()]
)
def test_an_old_name_is_refused_and_the_new_one_named(sentence, part, old, new):
    path = PLACES[part]
    assert (
        sentence(load_recipe, dump_yaml(with_part(path, {"use": old}))) == f"{path}.use: {old} is now {new}; rename it"
    )
    if part not in ("teacher", "transform", "loss_weighting"):
        assert sentence(
            load_recipe, BASE, [f"{path}={old}"] if part != "augmentation" else [f"data.augment={old}"]
        ) == (f"{path}: {old} is now {new}; rename it")


@pytest.mark.parametrize(
    ("part", "key", "old", "new"),
    [
        (part, key, old, new)
        for part, keys in RENAMED_VALUES.items()
        for key, values in keys.items()
        for old, new in values.items()
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_an_old_value_is_refused_and_the_new_one_named(sentence, part, key, old, new, many):
    node = {**({"use": USES[part]} if part in USES else {}), key: [old] if many else old}
    document = {**parse_yaml(BASE), **node} if part == "recipe" else with_part(PLACES[part], node)
    path = f"{PLACES[part]}.{key}".lstrip(".")
    assert sentence(load_recipe, dump_yaml(document)) == f"{path}: {old} is now {new}; rename it"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.batch=8"], "training.batch is now training.batch_size; rename it"),
        (["stages.0.training.batch=8"], "stages.0.training.batch is now stages.0.training.batch_size; rename it"),
        (["stages.0.training={scheduler: {use: StepLR, per: step}}"], "stages.0.training.scheduler.per is now"),
        (["teaching.epochs=3"], "teaching.epochs is now teacher_training.epochs; rename it"),
        (["teacher_training={epochs: 1, taps: {}}"], "teacher_training.taps is now teacher_training.feature_layers"),
        (["stages.0.objective.kd.tau=3"], "stages.0.objective.kd.tau is now stages.0.objective.kd.temperature;"),
        (["stages.0.objective.kd.temperature={use: Learned, per: run}"], "temperature.per is now"),
        (
            ["stages.0.objective.kd.weight={use: overall, schedule: {use: linear}}"],
            "weight.use: overall is now across_",
        ),
        (
            ["stages.0.objective.kd.weight={use: across_stages, schedule: {use: warmup, over: 1}}"],
            "schedule.over is now",
        ),
        (["data.augment={use: Augmentation, transforms: [affine, flip]}"], "data.augment.transforms.1: flip is now"),
        (["teachers.big.classes=[a, b]"], "teachers.big.classes is now teachers.big.class_names; rename it"),
        (["teachers.big.classes=names.txt"], "teachers.big.classes is now teachers.big.class_names; rename it"),
        (["teachers.big.size=16"], "teachers.big.size is now teachers.big.input_size; rename it"),
        (["assistants={mid: {use: small_vit, patch: 4}}"], "assistants.mid.patch is now assistants.mid.patch_size"),
        (["teachers.big={use: small_vit, heads: 2}"], "teachers.big.heads is now teachers.big.num_heads; rename it"),
        (["teachers.big={use: 'my_nets:Net', engine: auto}"], "teachers.big.engine is now teachers.big.backend"),
        (["study={arms: {a: {}}}"], "study.arms is now study.variants; rename it"),
        (["study.variants={a: {guided: dense}}"], "study.variants.a.guided is now study.variants.a.assistant_mode"),
        (
            ["study.variants={a: {stages.0.objective.kd.tau: 2}}"],
            "a.stages.0.objective.kd.tau is now study.variants.a.s",
        ),
        (["study.variants={a: {stages.0.objective.x: Hint}}"], "a.stages.0.objective.x: Hint is now FitNetLoss"),
        (["study.variants={a: {stages.0.objective: {x: {use: Hint}}}}"], "objective.x.use: Hint is now FitNetLoss"),
        (["study.variants={a: {training.batch_pairing: again}}"], "batch_pairing: again is now repeat_previous"),
        (["control=alone"], "control is now baselines; rename it"),
        (["baselines=alone"], "baselines: alone is now student_only; rename it"),
    ],
)
def test_an_old_name_is_refused_at_every_level(sentence, settings, message):
    assert message in sentence(load_recipe, BASE, settings)


def test_an_override_and_a_change_with_an_old_path_are_refused(sentence):
    message = "data.labels is now data.num_labeled; rename it"
    assert sentence(apply_overrides, parse_yaml(BASE), ["data.labels=100"]) == message
    assert sentence(apply_changes, parse_yaml(BASE), {"data.labels": 100}) == message


@pytest.mark.parametrize(
    "settings",
    [
        ["stages.0.objective.own={use: 'my_losses:Own', tau: 3, at: mid, width: 4}"],
        ["teachers.big={use: mlp, size: 16, classes: 10, weights: x}"],
        ["teachers.big={use: 'my_nets:Net', size: 16, weights: x}"],
        ["student={use: 'my_nets:Net', heads: 2, patch: 4}"],
        ["stages.0.objective.again={use: KDLoss, temperature: 3}"],
        ["stages.0.objective.kd.temperature={use: Learned}"],
        ["training.keep_weights=last", "training.scheduler={use: LinearLR, total_iters: 3}"],
        ["study.variants={alone: {training.batch_size: 8}, taps: {stages.0.epochs: 2}}"],
    ],
)
def test_user_names_and_settings_of_other_nodes_are_unchanged(settings):
    load_recipe(BASE, settings)


def test_every_old_name_of_a_recipe_is_listed():
    old = {"threads": 1, "data": {"use": "Digits", "views": {"use": "Views", "per_sample": 2}}, "cache": {"top": 5}}
    assert find_renamed(old) == [
        "threads is now num_threads; rename it",
        "data.views is now data.augment; rename it",
        "data.views.use: Views is now Augmentation; rename it",
        "data.views.per_sample is now data.views.num_views; rename it",
        "cache.top is now cache.top_k; rename it",
    ]


@pytest.mark.parametrize("name", [name for name, _ in list_recipes()])
def test_recipes_that_come_along_have_no_old_name(name):
    assert not list(find_renamed(parse_yaml(find_recipe(name).read_text())))
