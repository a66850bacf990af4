"""Assistants, guides, controls and early stops in a recipe: what they mean, and what cannot be expressed."""

from __future__ import annotations

import pytest

from limbeck.recipe import load_recipe, resolve_recipe, to_yaml

CHAIN = """
name: chain
task: Classification
data: Digits
teachers: {big: {use: small_cnn, width: 12, train_fraction: 0.5}}
assistants: {mid: {use: small_cnn, width: 8}, small: small_cnn}
student: {use: small_cnn, width: 4}
teacher_training: {steps: 12, objective: {truth: CrossEntropyLoss}}
stages:
  - name: distill
    steps: 8
    objective: {soft: KDLoss}
"""
HINT = "stages.0.objective={hint: {use: FitNetLoss, layer: here}}"
LINE = "{use: linear, start: 1, end: 0}"


def test_the_order_of_the_recipe_is_the_order_of_the_chain():
    recipe = load_recipe(CHAIN)
    assert [tuple(link) for link in recipe.training_order()] == [
        ("mid", ("big",)), ("small", ("mid",)), ("student", ("small",)),
    ]  # fmt: skip
    assert load_recipe(CHAIN, ["assistant_mode=dense"]).training_order()[-1].teachers == ("big", "mid", "small")
    assert resolve_recipe(recipe).assistants["small"].config["width"] == 8


def test_what_is_shown_can_be_read_again():
    shown = to_yaml(load_recipe(CHAIN, ["baselines=[student_only,no_assistants]", "assistant_mode=dense"]))
    again = load_recipe(shown)
    assert to_yaml(again) == shown
    assert (again.assistant_mode, again.baselines, again.teachers["big"].train_fraction) == (
        "dense",
        ("student_only", "no_assistants"),
        0.5,
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("[student_only]", ("student_only",)),
        ("[]", ()),
        ("[no_assistants]", ("no_assistants",)),
        ("[no_assistants,student_only]", ("no_assistants", "student_only")),
    ],
)
def test_baselines_are_one_two_or_none(given, meant):
    assert load_recipe(CHAIN, [f"baselines={given}"]).baselines == meant


def test_an_assistant_has_feature_layers_by_its_own_name():
    taps = "{student: {here: block1}, big: {here: block2}, mid: {here: block1}, small: {here: fc}}"
    resolve_recipe(load_recipe(CHAIN, [HINT, f"stages.0.feature_layers={taps}"]))


def test_dense_may_name_the_teacher_whom_all_have():
    resolve_recipe(load_recipe(CHAIN, ["assistant_mode=dense", "stages.0.objective.soft.teacher=big"]))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["teachers.big.train_fraction=1.5"], "teachers.big.train_fraction: 1.5 is not at most 1"),
        (["teachers.big.train_fraction=0"], "teachers.big.train_fraction: 0 is not above 0"),
        (["teachers.big.train_fraction=half"], "teachers.big.train_fraction: 'half' is not a number"),
        (["teachers.big.weights=runs/x"], "a teacher with weights is not trained: remove one"),
        (["assistants.mid.train_fraction=0.5"], "assistants.mid: small_cnn has no setting 'train_fraction'"),
        (["assistants.mid.weights=runs/x"], "`weights` is a setting of teachers only"),
        (["assistants.mid.widht=3"], "did you mean 'width'"),
        (["assistants.student_only=mlp"], "cannot be named student_only, which is one of the students of a run"),
        (["teachers.distilled=mlp"], "cannot be named distilled"),
        (["assistants.student=mlp"], "cannot be named student"),
        (["assistants.big=mlp"], "assistants.big: a teacher has that name already"),
        (["assistant_mode=densely"], "assistant_mode: 'densely' is not one of 'sequential', 'dense'"),
        (["baselines=[student_only,student_only]"], "does not name each baseline once"),
        (["baselines=none"], "baselines: 'none' is not a list: write [student_only], or [] for none"),
        (["baselines=[student_only,none]"], "baselines: 'none' is not one of 'student_only', 'no_assistants'"),
        (["baselines=3"], "baselines: 3 is not a list: write [student_only], or [] for none"),
        (["teachers={}", "teacher_training=null"], "an assistant learns from the teachers, and the recipe has none"),
        (["assistants={}", "assistant_mode=dense"], "assistant_mode: dense is the mode of assistants, and the recipe "
            "has none"),
        (["assistants={}", "baselines=[no_assistants]"], "baselines: no_assistants is the student without assistants"),
        (["stages.0.objective.soft.teacher=big"], "small goes through the same stages and learns from mid, not"),
        (["stages.0.objective.soft.teacher=mid", "assistant_mode=dense"], "learns from big, not from mid: remove"),
        (["stages.0.objective.soft.teacher=bgi"], "no teacher is named 'bgi'; available: big"),
        ([HINT, "stages.0.feature_layers={student: {here: fc}, big: "
            "{here: fc}}"], "no feature layer of mid is named 'here'"),
        ([HINT, "stages.0.feature_layers={mid: {here: fc}, big: {here: fc}, small: "
            "{here: fc}}"], "no feature layer of student is named"),
        (["stages.0.feature_layers={mdi: {here: block1}}"], "no network is named 'mdi'; available: mid"),
        (["stages.0.objective.soft.weight={use: across_stages, schedule: 0.5}"], "schedule: 0.5 is not a Schedule"),
        (["stages.0.objective.soft.weight={use: across_stages}"], "across_stages needs 'schedule'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(sentence, settings, says):
    assert says in sentence(lambda: resolve_recipe(load_recipe(CHAIN, settings)))


@pytest.mark.parametrize("key", ["weight", "temperature"])
def test_an_overall_schedule_is_a_node_in_a_node(key):
    recipe = load_recipe(CHAIN, [f"stages.0.objective.soft.{key}={{use: across_stages, schedule: {LINE}}}"])
    terms, weights = resolve_recipe(recipe).stages[0].build_objective()
    assert str({"weight": weights["soft"], "temperature": terms["soft"].temperature}[key]) == "1→0 over all stages"
    assert to_yaml(load_recipe(to_yaml(recipe))) == to_yaml(recipe)
