"""Recipe settings of several teachers are validated before anything is loaded."""

from __future__ import annotations

import pytest
import yaml

from limbeck.core.errors import LimbeckError
from limbeck.recipe import load_recipe, resolve_recipe, to_yaml
from limbeck.workflows.study.variants import StudyContext, make_trial_recipe, make_variants

RECIPE = """
task: Classification
data: {use: Digits}
teachers: {a: {use: small_cnn, weights: a.pt}, b: {use: mlp, weights: b.pt}, c: {use: small_cnn, weights: c.pt}}
student: {use: small_cnn}
stages: [{name: distill, steps: 3, objective: {truth: CrossEntropyLoss, soft: KDLoss}}]
"""


def made(**changes):
    return yaml.safe_dump({**yaml.safe_load(RECIPE), **changes})


@pytest.mark.parametrize(
    ("ensemble", "shown"),
    [
        ("MeanLogits", {"use": "MeanLogits", "weights": None}),
        ({"use": "MeanProbabilities", "weights": {"a": 2}, "temperature": 4},
         {"use": "MeanProbabilities", "weights": {"a": 2.0}, "temperature": 4.0}),
        (
            {"use": "ConfidenceWeighted", "criterion": "cross_entropy"},
            {"use": "ConfidenceWeighted", "criterion": "cross_entropy", "temperature": 1.0},
        ),
        ("RandomTeacher", {"use": "RandomTeacher", "weights": None}),
        ("LearnedWeights", {"use": "LearnedWeights"}),
    ],
)  # fmt: skip
def test_every_ensemble_is_a_setting_and_is_shown_whole(ensemble, shown):
    text = to_yaml(load_recipe(made(ensemble=ensemble)))
    assert yaml.safe_load(text)["ensemble"] == shown
    resolve_recipe(load_recipe(text))


def test_input_mapping_and_class_names_are_shown_only_where_set(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("one\n\ntwo \n")
    teachers = {
        "a": {
            "use": "mlp",
            "weights": "a.pt",
            "input_size": 16,
            "normalize": "imagenet",
            "class_names": ["1", "0"],
        },
        "b": {"use": "small_cnn", "weights": "b.pt", "input_size": 16, "normalize": {"mean": [0.5], "std": [0.5]}},
        "c": {
            "use": "small_cnn",
            "weights": "c.pt",
            "class_names": str(file),
            "missing_classes": "mask",
            "coverage": "finite",
        },
        "d": {"use": "small_cnn", "weights": "d.pt", "classes": 10},
    }
    recipe = load_recipe(made(teachers=teachers))
    again = yaml.safe_load(to_yaml(recipe))["teachers"]
    assert {key: again["a"][key] for key in teachers["a"]} == teachers["a"]
    assert {key: again["b"][key] for key in teachers["b"]} == teachers["b"]
    assert "input_size" not in again["c"]
    assert "missing_classes" not in again["a"]
    plan = resolve_recipe(load_recipe(to_yaml(recipe)))
    built = {name: node.settings for name, node in plan.teachers.items()}
    # A network that is built for one size takes it as well, and has as many classes as there are names.
    assert (built["a"]["size"], built["a"]["classes"], built["c"]["classes"]) == (16, 2, 2)
    assert "size" not in built["b"]
    assert built["d"]["classes"] == 10


MISTAKES = [
    ({"ensemble": "mean"}, "ensemble: no ensemble of teachers is named 'mean'"),
    ({"ensemble": {"use": "MeanLogits", "weights": {"x": 1.0}}}, "ensemble.weights: no teacher is named 'x'"),
    (
        {"ensemble": "LearnedWeights", "teachers": {"a": {"use": "small_cnn", "weights": "a.pt"}}},
        "ensemble: LearnedWeights combines several teachers, and the recipe has 1: remove it",
    ),
    (
        {"ensemble": "LearnedWeights", "assistants": {"mid": "small_cnn"}, "assistant_mode": "dense"},
        "with assistant_mode: dense each loss is computed for each of them",
    ),
    (
        {
            "ensemble": "RandomTeacher",
            "stages": [{"name": "s", "steps": 1, "objective": {"soft": {"use": "KDLoss", "teacher": "a"}}}],
        },
        "every loss names its own teacher",
    ),
    (
        {"teachers": {"a": {"use": "small_cnn", "weights": "a.pt", "missing_classes": "mask"}}},
        "teachers.a: missing_classes: mask needs the classes",
    ),
    (
        {"teachers": {"a": {"use": "mlp", "weights": "a.pt", "class_names": []}}},
        "teachers.a.class_names: \\[\\] is neither a list of",
    ),
    (
        {"teachers": {"a": {"use": "mlp", "weights": "a.pt", "class_names": "nowhere.txt"}}},
        "nowhere.txt could not be read",
    ),
    ({"teachers": {"a": {"use": "mlp", "weights": "a.pt", "normalize": "mine"}}}, "normalize: 'mine' is not one of"),
    (
        {"teachers": {"a": {"use": "mlp", "weights": "a.pt", "normalize": {"mean": [0.5], "std": []}}}},
        "mean has 1 channels and std 0",
    ),
    (
        {
            "teachers": {"a": {"use": "small_cnn", "class_names": ["0", "1"]}},
            "teacher_training": {"steps": 1, "objective": {"truth": "CrossEntropyLoss"}},
        },
        "teachers.a.class_names: it has no weights, so it is trained here",
    ),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_sentence_with_its_place(changes, message):
    with pytest.raises(LimbeckError, match=message):
        resolve_recipe(load_recipe(made(**changes)))


def cells(tmp_path, **changes):
    recipe = load_recipe(made(**changes))
    shared = StudyContext(tmp_path, [3], 1.0, 0)
    return {
        name: make_trial_recipe(recipe, arm, 0, shared)
        for name, arm in make_variants(recipe).items()
        if name != "teacher"
    }


def test_variants_of_a_study_choose_teachers_and_ensembles(tmp_path):
    study = {
        "variants": {
            "only_a": {"teachers": ["a"]},
            "two": {"teachers": ["a", "b"]},
            "learned": {"ensemble": "LearnedWeights"},
            "two_sure": {"teachers": ["b", "c"], "ensemble.use": "ConfidenceWeighted", "ensemble.weights": None},
        }
    }
    study["variants"]["two_sure"] = {"teachers": ["b", "c"], "ensemble": {"use": "ConfidenceWeighted"}}
    weighed = {"use": "MeanProbabilities", "weights": {"a": 2.0, "c": 3.0}}
    recipes = cells(tmp_path, ensemble=weighed, study=study)
    for recipe in recipes.values():
        resolve_recipe(recipe)
    ensembles = {name: recipe.ensemble.model_dump() for name, recipe in recipes.items()}
    assert ensembles["student_only"] == ensembles["equal_time"] == ensembles["only_a"] == {"use": "MeanLogits"}
    assert ensembles["distilled"] == weighed
    assert ensembles["two"] == {"use": "MeanProbabilities", "weights": {"a": 2.0}}
    assert (ensembles["learned"], ensembles["two_sure"]) == ({"use": "LearnedWeights"}, {"use": "ConfidenceWeighted"})
